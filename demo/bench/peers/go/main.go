// A net/http server with go-oidc: / answers anyone, /private answers callers with a valid token.
package main

import (
	"context"
	"io"
	"log"
	"net/http"
	"os"
	"strings"

	oidc "github.com/coreos/go-oidc"
)

const (
	audience = "https://auth-server.example"
	text     = "a response of exactly sixty-four bytes, the same for both paths."
)

func page(answer http.ResponseWriter, _ *http.Request) {
	answer.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = io.WriteString(answer, text)
}

func guarded(verifier *oidc.IDTokenVerifier, next http.HandlerFunc) http.HandlerFunc {
	return func(answer http.ResponseWriter, request *http.Request) {
		token := strings.TrimPrefix(request.Header.Get("Authorization"), "Bearer ")
		if _, err := verifier.Verify(request.Context(), token); err != nil {
			http.Error(answer, "no valid token", http.StatusUnauthorized)
			return
		}
		next(answer, request)
	}
}

func main() {
	if len(os.Args) != 3 {
		log.Fatal("<port> <issuer>")
	}
	provider, err := oidc.NewProvider(context.Background(), os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	verifier := provider.Verifier(&oidc.Config{ClientID: audience})
	http.HandleFunc("/", page)
	http.HandleFunc("/private", guarded(verifier, page))
	log.Fatal(http.ListenAndServe("127.0.0.1:"+os.Args[1], nil))
}
