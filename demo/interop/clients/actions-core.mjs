// `@actions/core` (https://github.com/actions/toolkit), the client that actions use for the ID tokens of their job.

import * as core from '@actions/core';

async function idToken(audience) {
  try {
    return { token: await core.getIDToken(audience) };
  } catch (error) {
    return { error: error.message };
  }
}

// `getIDToken` prints a command that masks the token; only the result of this script goes to standard output.
const write = process.stdout.write.bind(process.stdout);
process.stdout.write = process.stderr.write.bind(process.stderr);

const results = {
  default_audience: await idToken(),
  audience: await idToken('https://orders.example'),
  encoded_audience: await idToken('a b&c=d#é'),
};
process.env.ACTIONS_ID_TOKEN_REQUEST_TOKEN = 'wrong';
results.wrong_request_token = await idToken('https://orders.example');
write(JSON.stringify(results));
