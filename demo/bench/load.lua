-- Makes wrk send the first TOKENS tokens of the file TOKEN_FILE, one per request, in turn.
local requests, last = {}, 0

function init()
  local limit = tonumber(os.getenv("TOKENS"))
  for token in io.lines(os.getenv("TOKEN_FILE")) do
    if #requests == limit then break end
    requests[#requests + 1] = wrk.format("GET", nil, { Authorization = "Bearer " .. token })
  end
end

function request()
  last = last % #requests + 1
  return requests[last]
end

function done(summary)
  local failed = summary.errors
  io.write(string.format('{"requests":%d,"microseconds":%d,"failed":%d}\n', summary.requests, summary.duration,
    failed.connect + failed.read + failed.write + failed.status + failed.timeout))
end
