// `@jmondi/oauth2-server` (https://github.com/jasonraimondi/ts-oauth2-server), whose grant `urn:ietf:params:oauth:grant-type:
// token-exchange` is its own. It has neither discovery nor keys to publish, so both are served here.

import { generateKeyPairSync, randomUUID } from 'node:crypto';
import { AuthorizationServer, DateInterval, JwtService, OAuthException } from '@jmondi/oauth2-server';
import { handleVanillaError, requestFromVanilla, responseToVanilla } from '@jmondi/oauth2-server/vanilla';
import jsonwebtoken from 'jsonwebtoken';
import { RESOURCES, SCOPES, TOKEN_EXCHANGE, listen, settings, verifySubject } from './common.mjs';

const KEY_ID = 'ts-oauth2-server';
const { privateKey, publicKey } = generateKeyPairSync('rsa', { modulusLength: 2048 });

// Signs with a key pair, so that others can verify the tokens.
class KeyPairJwtService extends JwtService {
  sign(payload) {
    return Promise.resolve(jsonwebtoken.sign(payload, privateKey, { algorithm: 'RS256', keyid: KEY_ID }));
  }
}

const clients = {
  getByIdentifier: (id) => (id === settings.clientId ? {
    id,
    name: id,
    secret: settings.clientSecret,
    redirectUris: [],
    allowedGrants: [TOKEN_EXCHANGE],
    scopes: SCOPES.map((name) => ({ name })),
  } : undefined),
  isClientValid: (grant, client, secret) => client.allowedGrants.includes(grant) && client.secret === secret,
};

const scopes = {
  getAllByIdentifiers: (names) => SCOPES.filter((name) => names.includes(name)).map((name) => ({ name })),
  finalize: (found) => found,
};

const tokens = {
  issueToken: (client, found, user) => ({
    accessToken: randomUUID(), accessTokenExpiresAt: new Date(), client, user, scopes: found,
  }),
  persist: () => undefined,
};

function authorizationServer(issuer) {
  const server = new AuthorizationServer(
    clients, tokens, scopes, new KeyPairJwtService('unused'), { issuer, requiresS256: true },
  );
  server.enableGrantTypes([
    {
      grant: TOKEN_EXCHANGE,
      processTokenExchange: async ({ audience, subjectToken }) => {
        const claims = await verifySubject(subjectToken, issuer, (reason) => OAuthException.invalidGrant(reason));
        const unknown = [audience].flat().find((name) => !RESOURCES.includes(name));
        if (unknown) {
          throw OAuthException.badRequest(`the audience ${unknown} is not known`);
        }
        return { id: claims.sub };
      },
    },
    new DateInterval('10m'),
  ]);
  return server;
}

async function respond(server, issuer, request) {
  switch (new URL(request.url).pathname) {
    case '/.well-known/openid-configuration':
      return Response.json({ issuer, jwks_uri: `${issuer}/jwks`, token_endpoint: `${issuer}/token` });
    case '/jwks':
      return Response.json({
        keys: [{ ...publicKey.export({ format: 'jwk' }), kid: KEY_ID, alg: 'RS256', use: 'sig' }],
      });
    case '/token':
      try {
        return responseToVanilla(
          await server.respondToAccessTokenRequest(await requestFromVanilla(request)),
        );
      } catch (error) {
        return responseToVanilla(handleVanillaError(error));
      }
    default:
      return new Response(null, { status: 404 });
  }
}

listen((issuer) => {
  const server = authorizationServer(issuer);
  return async (incoming, outgoing) => {
    const chunks = [];
    for await (const chunk of incoming) {
      chunks.push(chunk);
    }
    const body = ['GET', 'HEAD'].includes(incoming.method) ? undefined : Buffer.concat(chunks);
    const request = new Request(new URL(incoming.url, issuer), {
      method: incoming.method, headers: incoming.headers, body,
    });
    try {
      const response = await respond(server, issuer, request);
      outgoing.writeHead(response.status, Object.fromEntries(response.headers));
      outgoing.end(Buffer.from(await response.arrayBuffer()));
    } catch (error) {
      console.error(error);
      outgoing.writeHead(500).end();
    }
  };
});
