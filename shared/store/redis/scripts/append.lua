-- Append to several logs; each entry is appended or refused on its own.
-- KEYS: owners, active sessions, owner's turns, signals; then for each entry: turn, log, session, image, idempotency key
-- ARGV: 4 owner 5 lease_ms 6 kept_ms 7 gone_ms 8 signal channel 9 '1' to write also on a repeat; then for each entry:
--       turn, session, channel, first, last, lines, '1' where the lines may be pushed, status or '', ended, text, image
local owner = ARGV[4]
local out = {}
local entries = (#KEYS - 4) / 5
for entry = 0, entries - 1 do
  local k, a = 5 + entry * 5, 10 + entry * 11
  local keys = { turn = KEYS[k], log = KEYS[k + 1], session = KEYS[k + 2], image = KEYS[k + 3], key = KEYS[k + 4],
    run = KEYS[3], signals = KEYS[4] }
  local turn_id, session, channel, first, last, lines = unpack(ARGV, a, a + 5)
  local status, ended, reply, image = unpack(ARGV, a + 7, a + 10)
  local row = redis.call('HMGET', keys.turn, 'owner', 'status', 'last_seq', 'cancel')
  local mine = row[1] == owner and row[2] == 'running'
  local last_seq = tonumber(row[3]) or 0
  local sent = ''
  if not row[1] then
    out[#out + 1] = { 'gone', 0, '', '' }
  elseif mine and last_seq == first - 1 then
    redis.call('XADD', keys.log, last .. '-0', 'e', lines)
    redis.call('HSET', keys.turn, 'last_seq', last)
    publish(channel, first .. '\n' .. last .. '\n' .. (ARGV[a + 6] == '1' and lines or ''))
    if status ~= '' then
      sent = end_turn(keys, turn_id, session, ARGV[8], owner, status, ended, reply, image, ARGV[6], ARGV[7])
      if session ~= '' and redis.call('EXISTS', keys.session) == 1 then session_used(keys.session, KEYS[2], session, ended) end
    end
    out[#out + 1] = { '', tonumber(last), row[4], sent }
  else
    local stored = redis.call('XRANGE', keys.log, last .. '-0', last .. '-0')
    if row[1] == owner and stored[1] and stored[1][2][2] == lines then
      -- A repeated entry, whose first reply was lost. A write here makes WAIT wait for the first write, too.
      if ARGV[9] == '1' then redis.call('HSET', keys.turn, 'last_seq', row[3]) end
      out[#out + 1] = { '', last_seq, row[4], '' }
    elseif mine and last_seq < first - 1 then
      out[#out + 1] = { 'behind', last_seq, row[4], '' }
    else
      out[#out + 1] = { 'fenced', last_seq, '', '' }
    end
  end
end
redis.call('ZADD', KEYS[1], now_ms() + tonumber(ARGV[5]), owner)
return out
