-- Append to several logs; each entry is appended or refused on its own. The answer has only the entries of which there is more
-- to say than that they are stored: number, why not, the turn's last seq, '1' for a cancel, the signal that was sent.
-- KEYS: owners, active sessions, owner's turns, signals; then for each entry: turn, log; then for each end: session, image,
--       idempotency key
-- ARGV: 4 owner 5 lease_ms 6 kept_ms 7 gone_ms 8 signal channel 9 '1' to write also on a repeat 10 number of entries;
--       then for each entry: channel, first, last, lines, marks: 'm' where a push has no lines, 'e' where the turn ends;
--       then for each end: turn, session, status, ended, text, image
local owner, out = ARGV[4], {}
local entries = tonumber(ARGV[10])
local a, end_k, end_a = 11, 5 + entries * 2, 11 + entries * 5
for entry = 1, entries do
  local turn, log = KEYS[3 + entry * 2], KEYS[4 + entry * 2]
  local channel, first, last, lines, marks = unpack(ARGV, a, a + 4)
  local pushed, keys, ending = lines, nil, nil
  if marks ~= '' then
    if string.sub(marks, 1, 1) == 'm' then pushed = '' end
    if string.sub(marks, -1) == 'e' then
      keys = { turn = turn, log = log, run = KEYS[3], signals = KEYS[4], session = KEYS[end_k], image = KEYS[end_k + 1],
        key = KEYS[end_k + 2] }
      ending = { unpack(ARGV, end_a, end_a + 5) }
      end_k, end_a = end_k + 3, end_a + 6
    end
  end
  a = a + 5
  local row = redis.call('HMGET', turn, 'owner', 'status', 'last_seq', 'cancel')
  local mine = row[1] == owner and row[2] == 'running'
  local last_seq = tonumber(row[3]) or 0
  if not row[1] then
    out[#out + 1] = { entry, 'gone', 0, '', '' }
  elseif mine and last_seq == first - 1 then
    redis.call('XADD', log, last .. '-0', 'e', lines)
    redis.call('HSET', turn, 'last_seq', last)
    publish(channel, first .. '\n' .. last .. '\n' .. pushed)
    local sent = ''
    if ending then
      local turn_id, session, status, ended, reply, image = unpack(ending)
      sent = end_turn(keys, turn_id, session, ARGV[8], owner, status, ended, reply, image, ARGV[6], ARGV[7])
      if session ~= '' and redis.call('EXISTS', keys.session) == 1 then session_used(keys.session, KEYS[2], session, ended) end
    end
    if row[4] == '1' or sent ~= '' then out[#out + 1] = { entry, '', tonumber(last), row[4], sent } end
  else
    local stored = redis.call('XRANGE', log, last .. '-0', last .. '-0')
    if row[1] == owner and stored[1] and stored[1][2][2] == lines then
      -- A repeated entry, whose first reply was lost. A write here makes WAIT wait for the first write, too.
      if ARGV[9] == '1' then redis.call('HSET', turn, 'last_seq', row[3]) end
      out[#out + 1] = { entry, '', last_seq, row[4], '' }
    elseif mine and last_seq < first - 1 then
      out[#out + 1] = { entry, 'behind', last_seq, row[4], '' }
    else
      out[#out + 1] = { entry, 'fenced', last_seq, '', '' }
    end
  end
end
redis.call('ZADD', KEYS[1], now_ms() + tonumber(ARGV[5]), owner)
return out
