#!/usr/bin/env bash
# Builds and runs a kube-apiserver on loopback, from Debian's source package, without kubelet, nodes and containers. Its
# discovery document, key set, TokenRequest, TokenReview, RBAC and content negotiation are the real ones.
#
#   apiserver.sh available           exits with 0 if the server is built or can be built on this machine
#   apiserver.sh build               installs packages and builds the server, once; takes about three minutes on two cores
#   apiserver.sh up KEY [KEY…]       starts etcd and the server. The first key signs tokens, all keys are published. Keys are
#                                    named rsa1, rsa2, …, ec1, ec2, … and are created when they are first used. Also
#                                    creates the namespaces id-namespace and other, each with the service accounts
#                                    gke-sa, stranger and guard
#   apiserver.sh down                stops both and deletes all objects
#   apiserver.sh down keep-etcd      stops only the server; another `up` keeps the objects and may use different keys
#   apiserver.sh token NAMESPACE ACCOUNT AUDIENCE [SECONDS]
#                                    prints a token from the TokenRequest API; the audience "" is that of the API server
#   apiserver.sh curl …              runs curl with the administrator's certificate
#   apiserver.sh ca                  prints the CA of the server's certificate in PEM
#   apiserver.sh address             prints host and port
#   apiserver.sh several-issuers     prints whether the server accepts several issuers at once; no for 1.20
#
# Environment:
#   APISERVER_CACHE    the compiled server; kept. Default: ~/.cache/workload-identity/apiserver
#   APISERVER_RUN      keys, certificates, logs and etcd's data. Default: $APISERVER_CACHE/run
#   APISERVER_PORT     the server's port on 127.0.0.1; etcd uses the next two. Default: 16443
#   ISSUER             --service-account-issuer. Default: https://kubernetes.default.svc.cluster.local
set -euo pipefail

cache=${APISERVER_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/workload-identity/apiserver}
run=${APISERVER_RUN:-$cache/run}
port=${APISERVER_PORT:-16443}
issuer=${ISSUER:-https://kubernetes.default.svc.cluster.local}
url=https://127.0.0.1:$port
binary=$cache/kube-apiserver
version=1.20.2
# golang-github-modern-go-reflect2-dev: the version that Kubernetes $version vendors crashes on TokenReviews in JSON.
packages=(golang-go etcd-server dpkg-dev openssl curl python3 golang-github-modern-go-reflect2-dev)

fail() { echo "apiserver.sh: $1" >&2; exit 1; }

is_built() { [ -x "$binary" ] && command -v etcd openssl curl python3 >/dev/null; }

available() {
    is_built && return
    # Debian 12 is the last release with a source package of Kubernetes.
    # shellcheck source=/dev/null
    [ "$(. /etc/os-release 2>/dev/null && echo "${ID:-} ${VERSION_ID:-}")" = "debian 12" ] && [ "$(id -u)" = 0 ]
}

install_packages() {
    local sources=/etc/apt/sources.list.d
    if [ -f $sources/debian.sources ] && ! grep -qs '^Types:.*deb-src' $sources/*.sources; then
        sed 's/^Types: deb$/Types: deb-src/' $sources/debian.sources >$sources/workload-identity-source.sources
    elif [ -f /etc/apt/sources.list ] && [ ! -f $sources/debian.sources ] && ! grep -q '^deb-src' /etc/apt/sources.list; then
        sed -n 's/^deb /deb-src /p' /etc/apt/sources.list >$sources/workload-identity-source.list
    fi
    apt-get update -q
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${packages[@]}"
}

build() {
    is_built && return
    available || fail "a kube-apiserver can be built on Debian 12 as root only"
    mkdir -p "$cache"
    local log=$cache/build.log
    echo "building kube-apiserver $version in $cache; see $log" >&2
    install_packages >"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "packages could not be installed"; }
    [ -x "$binary" ] && return
    compile >>"$log" 2>&1 || { tail -n 20 "$log" >&2; fail "kube-apiserver could not be built"; }
}

compile() {
    export GO111MODULE=off GOPROXY=off GOFLAGS='' GOPATH=$cache/go GOCACHE=$cache/go-cache
    local tree=$GOPATH/src/k8s.io/kubernetes
    if [ ! -d "$tree" ]; then
        local download
        download=$(mktemp -d "$cache/source.XXXX")
        (cd "$download" && apt-get source -q kubernetes)
        mkdir -p "$(dirname "$tree")"
        mv "$download"/kubernetes-"${version%.*}"* "$tree"
        rm -rf "$download" "$tree/vendor/github.com/modern-go/reflect2"
        cp -rL /usr/share/gocode/src/github.com/modern-go/reflect2 "$tree/vendor/github.com/modern-go/"
    fi
    cd "$tree"
    local generated=pkg/generated/openapi
    if [ ! -f $generated/zz_generated.openapi.go ]; then
        # The source package does not contain the OpenAPI definitions, which Kubernetes' build generates.
        go build -o "$cache/openapi-gen" ./vendor/k8s.io/kube-openapi/cmd/openapi-gen
        "$cache/openapi-gen" --input-dirs "$(marked_packages)" --output-package k8s.io/kubernetes/$generated \
            --output-file-base zz_generated.openapi --report-filename "$cache/openapi.report" \
            --go-header-file vendor/k8s.io/code-generator/hack/boilerplate.go.txt
    fi
    local flags="-s -w" package
    for package in k8s.io/component-base/version k8s.io/kubernetes/vendor/k8s.io/component-base/version; do
        flags+=" -X $package.gitMajor=1 -X $package.gitMinor=20 -X $package.gitVersion=v$version"
    done
    go build -trimpath -ldflags "$flags" -o "$binary" ./cmd/kube-apiserver
    # The sources and Go's cache take gigabytes and are not needed any more.
    rm -rf "$cache/go" "$cache/go-cache" "$cache/openapi-gen" "$cache/openapi.report"
}

marked_packages() {
    grep -rl --include='*.go' '+k8s:openapi-gen=' pkg vendor/k8s.io/*/ |
        grep -vE '^vendor/k8s.io/(code-generator|sample-apiserver|kube-openapi|gengo)/|/testdata/|_test\.go|zz_generated|_examples' |
        xargs -n 1 dirname | LC_ALL=C sort -u | sed 's|^|k8s.io/kubernetes/|' | paste -sd,
}

# Creates the CA, the certificates of server and administrator, and the keys that sign service account tokens.
certificates() { # KEY…
    local pki=$run/pki key
    mkdir -p "$pki"
    cd "$pki"
    [ -f ca.crt ] || openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=kubernetes -keyout ca.key -out ca.crt \
        -addext keyUsage=critical,digitalSignature,keyCertSign,cRLSign 2>/dev/null
    certificate server /CN=kube-apiserver serverAuth \
        'subjectAltName=IP:127.0.0.1,DNS:localhost,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.cluster.local'
    certificate admin /O=system:masters/CN=admin clientAuth
    for key in "$@"; do
        [ -f "$key.pub" ] && continue
        case $key in
            rsa[0-9]*) openssl genrsa -out "$key.key" 2048 2>/dev/null ;;
            ec[0-9]*) openssl ecparam -name prime256v1 -genkey -noout -out "$key.key" ;;
            *) fail "up: $key is not a valid key name; expected rsa1, rsa2, …, ec1, ec2, …" ;;
        esac
        openssl pkey -in "$key.key" -pubout -out "$key.pub"
    done
}

certificate() { # NAME SUBJECT USAGE [EXTENSION]
    [ -f "$1.crt" ] && return
    openssl req -newkey rsa:2048 -nodes -subj "$2" -keyout "$1.key" -out "$1.csr" 2>/dev/null
    printf 'extendedKeyUsage=%s\n%s\n' "$3" "${4:-}" >"$1.extensions"
    openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 -extfile "$1.extensions" \
        -out "$1.crt" 2>/dev/null
}

is_running() { [ -f "$run/$1.pid" ] && kill -0 "$(cat "$run/$1.pid")" 2>/dev/null; }

start() { # NAME COMMAND…
    local name=$1
    shift
    is_running "$name" && return
    setsid nohup "$@" >>"$run/$name.log" 2>&1 </dev/null &
    echo $! >"$run/$name.pid"
}

stop() { # NAME
    is_running "$1" || return 0
    kill "$(cat "$run/$1.pid")"
    for _ in $(seq 150); do
        is_running "$1" || break
        sleep 0.1
    done
    ! is_running "$1" || kill -9 "$(cat "$run/$1.pid")"
    rm -f "$run/$1.pid"
}

as_admin() {
    curl -sS --cacert "$run/pki/ca.crt" --cert "$run/pki/admin.crt" --key "$run/pki/admin.key" "$@"
}

create() { # PATH OBJECT
    as_admin -o /dev/null -H 'content-type: application/json' -d "$2" "$url$1"
}

is_ready() { [ "$(as_admin "$url/readyz" 2>/dev/null)" = ok ]; }

up() {
    [ $# -gt 0 ] || fail "up: expected the name of the signing key, for example rsa1"
    is_built || build
    mkdir -p "$run"
    certificates "$@"
    local keys=("--service-account-signing-key-file=$run/pki/$1.key") key namespace account
    for key in "$@"; do
        keys+=("--service-account-key-file=$run/pki/$key.pub")
    done
    local etcd=http://127.0.0.1:$((port + 1)) peer=http://127.0.0.1:$((port + 2))
    start etcd etcd --data-dir "$run/etcd" --unsafe-no-fsync --listen-client-urls "$etcd" --advertise-client-urls "$etcd" \
        --listen-peer-urls "$peer" --initial-advertise-peer-urls "$peer" --initial-cluster "default=$peer"
    # Without the ServiceAccount admission plugin, because no controller creates the tokens that it waits for.
    start apiserver "$binary" --etcd-servers="$etcd" --bind-address=127.0.0.1 --advertise-address=127.0.0.1 \
        --secure-port="$port" --insecure-port=0 --tls-cert-file="$run/pki/server.crt" --tls-private-key-file="$run/pki/server.key" \
        --client-ca-file="$run/pki/ca.crt" --service-account-issuer="$issuer" "${keys[@]}" --authorization-mode=Node,RBAC \
        --service-cluster-ip-range=10.96.0.0/24 --disable-admission-plugins=ServiceAccount --cert-dir="$run/unused"
    for _ in $(seq 240); do
        is_ready && break
        is_running apiserver || break
        sleep 0.25
    done
    is_ready || { tail -n 20 "$run/apiserver.log" >&2; fail "the server did not become ready; see $run/apiserver.log"; }
    for namespace in id-namespace other; do
        create /api/v1/namespaces "{\"metadata\":{\"name\":\"$namespace\"}}"
        for account in gke-sa stranger guard; do
            create "/api/v1/namespaces/$namespace/serviceaccounts" "{\"metadata\":{\"name\":\"$account\"}}"
        done
    done
    echo "$url"
}

token() { # NAMESPACE ACCOUNT AUDIENCE [SECONDS]
    local audiences='[]' response
    [ -z "$3" ] || audiences="[\"$3\"]"
    response=$(as_admin -H 'content-type: application/json' "$url/api/v1/namespaces/$1/serviceaccounts/$2/token" -d \
        "{\"apiVersion\":\"authentication.k8s.io/v1\",\"kind\":\"TokenRequest\",\"spec\":{\"audiences\":$audiences,\"expirationSeconds\":${4:-600}}}")
    python3 -c 'import json, sys; print(json.load(sys.stdin)["status"]["token"], end="")' <<<"$response" 2>/dev/null ||
        fail "token: the API server issued no token for $1/$2: $response"
}

command=${1:-}
shift || true
case $command in
    available) available ;;
    build) build ;;
    up) up "$@" ;;
    down)
        stop apiserver
        if [ "${1:-}" != keep-etcd ]; then
            stop etcd
            rm -rf "$run/etcd"
        fi
        ;;
    token) token "$@" ;;
    curl) as_admin "$@" ;;
    ca) cat "$run/pki/ca.crt" ;;
    address) echo "127.0.0.1 $port" ;;
    several-issuers) echo no ;;
    *) sed -n '2,/^set -/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2 ;;
esac
