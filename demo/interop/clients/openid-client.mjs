// `openid-client` (https://github.com/panva/openid-client) at a token endpoint: its requests, and how it reads the responses.

import * as oauth from 'openid-client';

const {
  INTEROP_TOKEN_ENDPOINT: tokenEndpoint,
  INTEROP_CLIENT_ID: clientId,
  INTEROP_CLIENT_SECRET: secret,
  INTEROP_SUBJECT_TOKEN: subjectToken,
  INTEROP_AUTHENTICATION: authentication,
} = process.env;

const methods = {
  basic: () => oauth.ClientSecretBasic(secret),
  post: () => oauth.ClientSecretPost(secret),
  none: () => oauth.None(),
  assertion: async () => {
    const { privateKey } = await crypto.subtle.generateKey(
      { name: 'ECDSA', namedCurve: 'P-256' }, false, ['sign', 'verify'],
    );
    return oauth.PrivateKeyJwt(privateKey);
  },
};
const metadata = { issuer: new URL(tokenEndpoint).origin, token_endpoint: tokenEndpoint };
const configuration = new oauth.Configuration(metadata, clientId, undefined, await methods[authentication]());
oauth.allowInsecureRequests(configuration);

async function result(request) {
  try {
    const response = await request;
    const { access_token, token_type, issued_token_type, scope } = response;
    return { access_token, token_type, issued_token_type, scope, expires_in: response.expiresIn() };
  } catch (error) {
    const { error: code, error_description: description, status } = error;
    return { failed: error.constructor.name, code, description, status, message: error.message };
  }
}

function exchange(parameters) {
  return result(oauth.genericGrantRequest(
    configuration,
    'urn:ietf:params:oauth:grant-type:token-exchange',
    new URLSearchParams([
      ['subject_token', subjectToken],
      ['subject_token_type', 'urn:ietf:params:oauth:token-type:jwt'],
      ...parameters,
    ]),
  ));
}

console.log(JSON.stringify({
  exchange: await exchange([
    ['audience', 'https://orders.example'],
    ['audience', 'https://stock.example'],
    ['scope', 'orders.read'],
  ]),
  unknown_scope: await exchange([['scope', 'orders.delete']]),
  unknown_target: await exchange([['audience', 'https://unknown.example']]),
  client_credentials: await result(oauth.clientCredentialsGrant(configuration, { scope: 'orders.read' })),
  unknown_grant: await result(oauth.genericGrantRequest(configuration, 'urn:example:unknown', {})),
}));
