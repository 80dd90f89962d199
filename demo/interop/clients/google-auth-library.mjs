// `google-auth-library` (https://github.com/googleapis/google-cloud-node-core) at a Security Token Service and IAM Credentials.

import { readFileSync } from 'node:fs';
import { ExternalAccountClient, GoogleAuth } from 'google-auth-library';

const { INTEROP_CONFIGURATION: configuration } = process.env;
const info = JSON.parse(readFileSync(configuration, 'utf8'));
const scopes = ['https://www.googleapis.com/auth/cloud-platform'];

async function result(client) {
  try {
    const { token } = await client.getAccessToken();
    return { token };
  } catch (error) {
    return { failed: error.constructor.name, message: error.message };
  }
}

function client(members) {
  const client = ExternalAccountClient.fromJSON({ ...info, ...members });
  client.scopes = scopes;
  return client;
}

console.log(JSON.stringify({
  access: await result(await new GoogleAuth({ keyFilename: configuration, scopes }).getClient()),
  federated: await result(client({ service_account_impersonation_url: undefined })),
  other_provider: await result(client({ audience: info.audience.replace('Pools/pool', 'Pools/other') })),
}));
