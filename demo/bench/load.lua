-- What wrk sends: each request with the next of the first TOKENS tokens of the file FILE.
local requests, next_one = {}, 0

function init()
  local most = tonumber(os.getenv("TOKENS"))
  for token in io.lines(os.getenv("FILE")) do
    if #requests == most then break end
    requests[#requests + 1] = wrk.format("GET", nil, { Authorization = "Bearer " .. token })
  end
end

function request()
  next_one = next_one % #requests + 1
  return requests[next_one]
end

function done(summary)
  local failed = summary.errors
  io.write(string.format('{"requests":%d,"microseconds":%d,"failed":%d}\n', summary.requests, summary.duration,
    failed.connect + failed.read + failed.write + failed.status + failed.timeout))
end
