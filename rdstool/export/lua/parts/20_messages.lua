-- What is known of the capture, filled while frames come by for the first time (`pinfo.visited` is false).

-- Most of it is kept, and Lua's collector looks through all of it each time. So it is to wait: once RDS was found, until memory
-- has grown by so much, and from then on until it has grown fourfold since the collector last looked, instead of twofold.
local ROOM_KILOBYTES = 524288
pcall(collectgarbage, "setpause", 400)

-- Frame number -> the frame: `number`, `time`, and lists of what is shown in it: `messages`, `parts`, `acks`, `cm`,
-- `operations`.
local shown
local at_end -- All frames were seen: what is still open is shown where it belongs.
local visited -- whether the frame that is dissected was before
local part_unwanted -- whether nobody looked at the last part of a message that was new
local streams, message_count
-- Address pair -> what its connections have in common.
local pairs_of_addresses

local function start_capture()
   shown, streams, message_count, pairs_of_addresses, at_end, part_unwanted = {}, {}, 0, {}, false, false
end

-- The frame that is dissected, as long as nothing is known of it.
local function now_of(number, pinfo)
   return { number = number, time = time_of(pinfo), messages = nil, parts = nil }
end

-- The list `kind` of what a frame shows.
local function shows(frame, kind)
   local known = shown[frame.number]
   if known and not known.part then
      frame = known
   else
      frame.parts = frame.parts or known and known.parts
      shown[frame.number] = frame
   end
   local list = frame[kind]
   if not list then
      list = {}
      frame[kind] = list
   end
   return list
end

-- A stream: one TCP connection, or the two queue pairs of an InfiniBand connection. Ends have `host` and `port`.
local function add_stream(transport, a, b, from_start)
   local first, second = a.host, b.host
   if second < first then
      first, second = second, first
   end
   if not streams[1] then
      pcall(collectgarbage, "step", -ROOM_KILOBYTES) -- less than a step: the next one comes so much later
   end
   local name = first .. " - " .. second
   local pair = pairs_of_addresses[name]
   if not pair then
      pair = { name = name, streams = {}, announced = {} }
      pairs_of_addresses[name] = pair
   end
   local stream = { number = #streams, transport = transport, a = a, b = b, pair = pair, from_start = from_start }
   stream.tcp = transport == "tcp"
   stream.lanes = {}
   for direction = 0, 1 do
      -- What is known of one direction: its messages, and what the next one has to go on from.
      local lane = { stream = stream, direction = direction, messages = {}, count = 0, unacked = 1, acked = 0 }
      lane.pings, lane.ack_positions, lane.ack_frames = {}, {}, {}
      lane.part = { stream = stream, direction = direction }
      lane.parts = { lane.part }
      lane.part_frame = { parts = lane.parts, part = lane.part }
      stream.lanes[direction] = lane
   end
   insert(streams, stream)
   insert(pair.streams, stream)
   return stream
end

-- Something to be said of a stream, but of no message. The list may be one that many frames share.
local function show_part_in(frame, part)
   local parts = { unpack(shows(frame, "parts")) }
   insert(parts, part)
   shown[frame.number].parts = parts
end

-- A stream begins or ends in this frame. Returns what is told.
local function tell(stream, direction, event, now)
   local part = { stream = stream, direction = direction, event = event }
   show_part_in(now, part)
   return part
end

-- Part of a message, and no more to say, in this frame. Most frames are such: what is shown of them, they share.
local function tell_part(lane, now)
   if not now.parts then
      now.parts = lane.parts
      local number = now.number
      shown[number] = shown[number] or lane.part_frame
   end
end

-- Source and destination of what travels in a direction of a stream.
local function ends_of(stream, direction)
   if direction == 0 then
      return stream.a, stream.b
   end
   return stream.b, stream.a
end

-- A message keeps little: its lane, the 48 bytes of its header in `raw`, the `frame` that completed it, `position`,
-- `number`, and what is not as usual. All else comes from these when it is asked for.
local IS_NUMBERED = { data = true, ping = true, pong = true, probe = true, ["probe-reply"] = true }
local usual = { complete = true, fragments = 1 }
local from_bytes = {}
local MESSAGE = {
   __index = function(message, name)
      local get = from_bytes[name]
      if get then
         return get(message)
      end
      return usual[name]
   end,
}

function from_bytes.stream(message)
   return message.lane.stream
end

function from_bytes.direction(message)
   return message.lane.direction
end

function from_bytes.tcp(message)
   return message.lane.stream.tcp
end

function from_bytes.first(message)
   return message.frame
end

function from_bytes.sequence(message)
   return u64(message.raw, 1)
end

function from_bytes.ack(message)
   return u64(message.raw, 9)
end

function from_bytes.length(message)
   return u32(message.raw, 17)
end

from_bytes.seen = from_bytes.length

-- Over RoCE most parts of a payload are kept as the frames that brought them, from IPv4 on to ICRC: these are cut out of them
-- here, once somebody asks. A SEND begins with a header of RDS.
local FRAMED_AT, FRAMED_BEHIND, FRAMING = 40, 4, 44
local function cut_frames(parts, count)
   for index = 1, count do
      local frame = parts[index]
      if frame ~= "" then
         local begins = byte(frame, 29) == 0
         parts[index] = sub(frame, FRAMED_AT + (begins and HEADER_BYTES or 0) + 1, -FRAMED_BEHIND - 1)
      end
   end
end

-- The payload of a message in parts, nil where it has none.
local function parts_of(message)
   local parts = message.parts
   if message.framed then
      cut_frames(parts, #parts)
      message.framed = nil
   end
   return parts
end

function from_bytes.payload(message)
   local parts = parts_of(message)
   return parts and concat(parts)
end

function from_bytes.sport(message)
   return u16(message.raw, 21)
end

function from_bytes.dport(message)
   return u16(message.raw, 23)
end

function from_bytes.flags(message)
   return byte(message.raw, 25)
end

function from_bytes.finish(message)
   return message.position + HEADER_BYTES + u32(message.raw, 17)
end

-- A message is asked for its kind some ten times in a row: its lane keeps the last answer.
function from_bytes.kind(message)
   local lane = message.lane
   if lane.asked ~= message then
      local raw = message.raw
      lane.asked = message
      lane.answer = kind_of(lane.stream.tcp, u32(raw, 17), u16(raw, 21), u16(raw, 23), byte(raw, 25))
   end
   return lane.answer
end

-- Over InfiniBand all frames of a message have one: what is not good is said.
function from_bytes.status(message)
   return message.lane.stream.tcp and checksum_status(message.raw) or "good"
end

-- Whether its sequence is that of a message of its kind.
function from_bytes.numbered(message)
   return IS_NUMBERED[message.kind] and not has(byte(message.raw, 25), CONG_BITMAP) or nil
end

-- Whether there is nothing to say about a message but its ports, number and length.
function from_bytes.regular(message)
   local raw, flags = message.raw, byte(message.raw, 25)
   return (flags == 0 or flags == ACK_REQUIRED)
      and message.kind == "data"
      and message.complete
      and not message.inferred
      and not message.late
      and byte(raw, 26) == 0
      and sub(raw, 33, 48) == NO_EXTENSIONS
      and message.status ~= "bad"
end

local analyse -- Compares a message with those before it; in 40_analysis.lua.

-- Enter a message into the frame that shows it.
local function enter(message, lane, now)
   message_count = message_count + 1
   message.number = message_count
   lane.count = lane.count + 1
   lane.messages[lane.count] = message
   local list = now.messages or shows(now, "messages")
   list[#list + 1] = message
end

-- Enter a message that is complete, or known not to become so. `now` is the frame that tells it.
local function add_message(message, now)
   if not at_end and message.frame.number ~= now.number then
      message.late = true
   end
   enter(message, message.lane, at_end and message.frame or now)
   analyse(message)
end
