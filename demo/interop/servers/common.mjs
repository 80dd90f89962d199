// What the servers share: the clients, the resources, and the verification of subject tokens.

import { createServer } from 'node:http';
import { createRemoteJWKSet, errors, jwtVerify } from 'jose';

export const TOKEN_EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
export const ACCESS_TOKEN = 'urn:ietf:params:oauth:token-type:access_token';

// The issuer of the subject tokens, its keys, and the credentials of the client: set by the tests.
export const settings = {
  subjectIssuer: required('INTEROP_SUBJECT_ISSUER'),
  subjectKeys: required('INTEROP_SUBJECT_KEYS'),
  clientId: required('INTEROP_CLIENT_ID'),
  clientSecret: required('INTEROP_CLIENT_SECRET'),
};

// The services that tokens can be issued for, and their scopes.
export const RESOURCES = ['https://orders.example', 'https://stock.example'];
export const SCOPES = ['orders.read', 'orders.write'];

const keys = createRemoteJWKSet(new URL(settings.subjectKeys), { cooldownDuration: 0 });

// Verifies a subject token, whose audience is the server. Returns its claims, or throws what `refuse` returns for the reason.
export async function verifySubject(token, audience, refuse) {
  try {
    const { payload } = await jwtVerify(token, keys, { issuer: settings.subjectIssuer, audience });
    return payload;
  } catch (error) {
    if (error instanceof errors.JOSEError) {
      throw refuse(`the subject token is not accepted: ${error.message}`);
    }
    throw error;
  }
}

// Listens on a free port of 127.0.0.1, and prints the URL. Ends with the test that has started it.
export function listen(createHandler) {
  const server = createServer();
  server.listen(0, '127.0.0.1', async () => {
    const url = `http://127.0.0.1:${server.address().port}`;
    server.on('request', await createHandler(url));
    console.log(url);
  });
  process.stdin.resume();
  process.stdin.on('end', () => process.exit(0));
}

function required(name) {
  const value = process.env[name];
  if (!value) {
    throw new Error(`${name} is not set: the tests set it, run demo/interop/run.sh`);
  }
  return value;
}
