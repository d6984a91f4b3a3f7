-- wrk script: a game server for each connection, which posts its snapshots at a pace, whatever it is answered.
--   wrk -t N -c N -d S -s paced.lua URL -- FOLDER N WORLDS PERIOD_S WARM_UP_S
-- One connection a thread, so that every answer's own latency is known by its status. FOLDER/<w>.bodies holds the bodies
-- of world w, one a line; connection n speaks for the worlds n, n + N, n + 2 N ... in turn. PERIOD_S 0: the next one at
-- once, after a refusal in REFUSED_S. What is answered in the first WARM_UP_S does not count.
-- Prints a line for each status: `status <code> <count> <p50> <p99> <most>` in milliseconds; `late <count>` of requests
-- that were sent after their time, because the answer before was; `broken <count>` of connections' errors; `complaint`
-- with the first refusal that says not when to come back.
local REFUSED_S = 0.25

local ffi = require("ffi")
ffi.cdef([[
typedef struct { long tv_sec; long tv_nsec; } timespec;
int clock_gettime(int, timespec *);
]])

local at = ffi.new("timespec")
local function now()
  ffi.C.clock_gettime(1, at)
  return tonumber(at.tv_sec) + tonumber(at.tv_nsec) * 1e-9
end

local threads = {}

function setup(thread)
  thread:set("number", #threads)
  table.insert(threads, thread)
end

function init(args)
  local folder, step, worlds
  folder, step, worlds, period, warm_up = args[1], tonumber(args[2]), tonumber(args[3]), tonumber(args[4]), tonumber(args[5])
  requests, turn = {}, 0
  wrk.method = "POST"
  wrk.headers["content-type"] = "application/json"
  local frames = {}
  for world = number, worlds - 1, step do
    local frame = 0
    for line in io.lines(folder .. "/" .. world .. ".bodies") do
      frame = frame + 1
      frames[frame] = frames[frame] or {}
      table.insert(frames[frame], wrk.format(nil, nil, nil, line))
    end
  end
  for _, bodies in ipairs(frames) do
    for _, body in ipairs(bodies) do
      table.insert(requests, body)
    end
  end
  -- Everybody at another moment of the period.
  begin = now()
  due = begin + period * ((number * 0.6180339887) % 1)
  sent, late, held, refused = 0, 0, "", false
  statuses, latencies = {}, {}
end

function delay()
  if period == 0 then return refused and REFUSED_S * 1000 or 0 end
  return math.max(0, math.floor((due - now()) * 1000 + 0.5))
end

function request()
  turn = turn % #requests + 1
  sent = now()
  if period > 0 then
    if sent - due > period / 2 then late = late + 1 end
    -- What could not be sent in its time is not sent in a burst later.
    due = math.max(due, sent - period) + period
  end
  return requests[turn]
end

function response(status, headers, body)
  local ended = now()
  refused = status ~= 200
  if ended - begin < warm_up then return end
  table.insert(statuses, status)
  table.insert(latencies, (ended - sent) * 1000)
  if (status == 429 or status == 503) and not headers["Retry-After"] and not headers["retry-after"] and held == "" then
    held = status .. " without Retry-After: " .. string.sub(body, 1, 120)
  end
end

function done(summary, latency, rates)
  local by_status, late_total, complaint = {}, 0, ""
  for _, thread in ipairs(threads) do
    late_total = late_total + thread:get("late")
    if complaint == "" then complaint = thread:get("held") end
    local times = thread:get("latencies")
    for index, status in ipairs(thread:get("statuses")) do
      by_status[status] = by_status[status] or {}
      table.insert(by_status[status], times[index])
    end
  end
  for status, times in pairs(by_status) do
    table.sort(times)
    local function rank(share) return times[math.max(1, math.ceil(share * #times))] end
    print(string.format("status %d %d %.3f %.3f %.3f", status, #times, rank(0.5), rank(0.99), times[#times]))
  end
  print(string.format("late %d", late_total))
  local errors = summary.errors
  print(string.format("broken %d", errors.connect + errors.read + errors.write + errors.timeout))
  if complaint ~= "" then print("complaint " .. complaint) end
end
