-- Append to several logs; each entry is appended or refused on its own.
-- KEYS: owners, active sessions, owner's turns, signals; then for each entry: turn, log; then for each end: session, image,
--       idempotency key
-- ARGV: 4 owner 5 lease_ms 6 kept_ms 7 gone_ms 8 signal channel 9 '1' to write also on a repeat 10 number of entries;
--       then for each entry: channel, first, last, lines, '1' where the lines may be pushed, '1' where the turn ends;
--       then for each end: turn, session, status, ended, text, image
local owner = ARGV[4]
local out = {}
local entries = tonumber(ARGV[10])
local k, a, end_k, end_a = 5, 11, 5 + entries * 2, 11 + entries * 6
for entry = 1, entries do
  local keys = { turn = KEYS[k], log = KEYS[k + 1], run = KEYS[3], signals = KEYS[4] }
  local channel, first, last, lines, pushed, ends = unpack(ARGV, a, a + 5)
  local turn_id, session, status, ended, reply, image
  if ends == '1' then
    keys.session, keys.image, keys.key = KEYS[end_k], KEYS[end_k + 1], KEYS[end_k + 2]
    turn_id, session, status, ended, reply, image = unpack(ARGV, end_a, end_a + 5)
    end_k, end_a = end_k + 3, end_a + 6
  end
  k, a = k + 2, a + 6
  local row = redis.call('HMGET', keys.turn, 'owner', 'status', 'last_seq', 'cancel')
  local mine = row[1] == owner and row[2] == 'running'
  local last_seq = tonumber(row[3]) or 0
  local sent = ''
  if not row[1] then
    out[#out + 1] = { 'gone', 0, '', '' }
  elseif mine and last_seq == first - 1 then
    redis.call('XADD', keys.log, last .. '-0', 'e', lines)
    redis.call('HSET', keys.turn, 'last_seq', last)
    publish(channel, first .. '\n' .. last .. '\n' .. (pushed == '1' and lines or ''))
    if status then
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
