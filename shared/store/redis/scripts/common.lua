-- Shared by all scripts: they run in Redis or Valkey, one at a time, so each is one atomic step.
-- ARGV of every script begins with: clock offset in ms (0 but in tests), "1" to publish in the script, the publish command.

local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + time[2] / 1000 + tonumber(ARGV[1])
end

-- Lua numbers lose their fraction on the way out, so times travel as strings.
local function text(number)
  return string.format('%.3f', number)
end

local function publish(channel, message)
  if ARGV[2] == '1' then redis.call(ARGV[3], channel, message) end
end

-- A signal to all nodes: id, kind, origin, session, turn, number of messages, each on a line.
local function signal(counter, channel, kind, origin, session, turn, messages)
  local id = redis.call('INCR', counter)
  local message = table.concat({ id, kind, origin, session, turn, messages }, '\n')
  publish(channel, message)
  return message
end

local function message_count(session_key)
  local counts = redis.call('HMGET', session_key, 'um', 'mm')
  return (tonumber(counts[1]) or 0) + (tonumber(counts[2]) or 0)
end

-- What the end of a turn changes beside its log. Gives the signal that was sent, or ''.
-- keys: turn, log, session, image, idempotency key, active sessions, the owner's turns, signal counter
local function end_turn(keys, turn_id, session, sig, owner, status, ended, reply, image, kept_ms, gone_ms)
  local now = now_ms()
  local log_until, turn_until = math.floor(now + kept_ms), math.floor(now + kept_ms + gone_ms)
  redis.call('HSET', keys.turn, 'status', status, 'ended', ended, 'text', reply, 'image', image,
    'log_until', log_until, 'turn_until', turn_until)
  redis.call('PEXPIREAT', keys.log, log_until)
  redis.call('PEXPIREAT', keys.key, log_until)
  redis.call('SREM', keys.run, turn_id)
  if session == '' or redis.call('EXISTS', keys.session) == 0 then
    redis.call('PEXPIREAT', keys.turn, turn_until)
    return ''
  end
  if image ~= '' then redis.call('PERSIST', keys.image) end
  local running = redis.call('HGET', keys.session, 'running')
  redis.call('HINCRBY', keys.session, 'rev', 1)
  if running == turn_id then redis.call('HSET', keys.session, 'running', '') end
  if reply == '' and image == '' and status ~= 'completed' then return '' end
  redis.call('HINCRBY', keys.session, 'mm', 1)
  return signal(keys.signals, sig, 'message_added', owner, session, turn_id, message_count(keys.session))
end

local function session_used(keys_session, keys_active, session, at)
  redis.call('HSET', keys_session, 'used', at)
  redis.call('ZADD', keys_active, at, session)
end
