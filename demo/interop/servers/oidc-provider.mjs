// `oidc-provider` (https://github.com/panva/node-oidc-provider). Client authentication, access tokens, discovery, keys and the
// form of errors are its own; the grant is registered here, since it has no token exchange.

import { Provider, errors } from 'oidc-provider';
import {
  ACCESS_TOKEN, RESOURCES, SCOPES, TOKEN_EXCHANGE, listen, settings, verifySubject,
} from './common.mjs';

// The path of the token endpoint of Microsoft Entra ID for a tenant, and a scope in its format.
const TOKEN_PATH = '/tenant.example/oauth2/v2.0/token';
const ENTRA_SCOPE = 'https://orders.example/.default';

const ALL_SCOPES = [...SCOPES, ENTRA_SCOPE].join(' ');

const PARAMETERS = [
  'audience', 'resource', 'scope', 'requested_token_type', 'subject_token', 'subject_token_type',
];

function client(id, properties) {
  return { client_id: id, redirect_uris: [], response_types: [], scope: ALL_SCOPES, ...properties };
}

function resourceServer(audience) {
  return { audience, scope: ALL_SCOPES, accessTokenFormat: 'jwt', accessTokenTTL: 600 };
}

async function exchange(ctx) {
  const { client, params, provider } = ctx.oidc;
  const { subject_token: subject, subject_token_type: type } = params;
  if (!subject || !type) {
    throw new errors.InvalidRequest('subject_token and subject_token_type are required');
  }
  const claims = await verifySubject(subject, provider.issuer, (reason) => new errors.InvalidRequest(reason));
  const targets = [params.audience, params.resource].flat().filter((target) => target !== undefined);
  if (targets.length !== 1 || !RESOURCES.includes(targets[0])) {
    throw new errors.InvalidTarget('the audience or resource is not known');
  }
  const scopes = (params.scope ?? '').split(' ').filter(Boolean);
  const unknown = scopes.find((scope) => !SCOPES.includes(scope));
  if (unknown) {
    throw new errors.InvalidScope('requested scope is not known', unknown);
  }
  const token = new provider.AccessToken({
    client, accountId: claims.sub, gty: 'token_exchange', scope: scopes.join(' ') || undefined,
  });
  token.resourceServer = new provider.ResourceServer(targets[0], resourceServer(targets[0]));
  ctx.body = {
    access_token: await token.save(),
    issued_token_type: ACCESS_TOKEN,
    expires_in: token.expiration,
    token_type: token.tokenType,
    scope: token.scope,
  };
}

listen(async (issuer) => {
  // It fetches keys over https only.
  const jwks = await (await fetch(settings.subjectKeys)).json();
  const provider = new Provider(issuer, {
    clients: [
      client(settings.clientId, {
        client_secret: settings.clientSecret,
        token_endpoint_auth_method: 'client_secret_basic',
        grant_types: [TOKEN_EXCHANGE, 'client_credentials'],
      }),
      client('post', {
        client_secret: settings.clientSecret,
        token_endpoint_auth_method: 'client_secret_post',
        grant_types: [TOKEN_EXCHANGE],
      }),
      client('assertion', {
        jwks,
        token_endpoint_auth_method: 'private_key_jwt',
        grant_types: [TOKEN_EXCHANGE, 'client_credentials'],
      }),
      client('public', { token_endpoint_auth_method: 'none', grant_types: [TOKEN_EXCHANGE] }),
      client('without-exchange', {
        client_secret: settings.clientSecret,
        token_endpoint_auth_method: 'client_secret_basic',
        grant_types: ['client_credentials'],
      }),
    ],
    routes: { token: TOKEN_PATH },
    scopes: [...SCOPES, ENTRA_SCOPE],
    clientAuthMethods: ['client_secret_basic', 'client_secret_post', 'private_key_jwt', 'none'],
    features: {
      clientCredentials: { enabled: true },
      devInteractions: { enabled: false },
      resourceIndicators: {
        enabled: true,
        // A request for client credentials has no resource.
        defaultResource: () => RESOURCES[0],
        getResourceServerInfo: (_, resource) => resourceServer(resource),
      },
    },
  });
  // Responses do not tell the details.
  provider.on('grant.error', (_, error) => console.error(error.message, error.error_detail ?? '', error.cause ?? ''));
  provider.registerGrantType(TOKEN_EXCHANGE, exchange, PARAMETERS, ['audience', 'resource']);
  return provider.callback();
});
