-- What is known of the capture, filled while frames come by for the first time (`pinfo.visited` is false).

-- Frame number -> what is shown in that frame: { messages, parts, acknowledgements, CM messages, operations }.
local shown
local at_end -- All frames were seen: what is still open is shown where it belongs.
local streams, message_count
-- Address pair -> what its connections have in common.
local pairs_of_addresses

local function start_capture()
   shown, streams, message_count, pairs_of_addresses, at_end = {}, {}, 0, {}, false
end

-- The list `kind` of what frame `number` shows.
local function shows(number, kind)
   local frame = shown[number]
   if not frame then
      frame = {}
      shown[number] = frame
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
   local name = first .. " - " .. second
   local pair = pairs_of_addresses[name]
   if not pair then
      pair = { name = name, streams = {}, announced = {} }
      pairs_of_addresses[name] = pair
   end
   local stream = { number = #streams, transport = transport, a = a, b = b, pair = pair, from_start = from_start }
   -- Of each direction: what its messages have to go on from.
   stream.lanes = {
      [0] = { sent = {}, waiting = {}, acked = 0, pings = {} },
      [1] = { sent = {}, waiting = {}, acked = 0, pings = {} },
   }
   insert(streams, stream)
   insert(pair.streams, stream)
   return stream
end

-- A stream begins or ends in this frame.
local function tell(stream, direction, event, now)
   insert(shows(now.number, "parts"), { stream = stream, direction = direction, event = event })
end

-- Source and destination of what travels in a direction of a stream.
local function ends_of(stream, direction)
   if direction == 0 then
      return stream.a, stream.b
   end
   return stream.b, stream.a
end

local analyse -- Compares a message with those before it; in 40_analysis.lua.

-- Whether there is nothing to say about a message but its ports, number and length.
local function is_regular(message)
   return message.complete
      and not message.inferred
      and not message.late
      and (message.flags == 0 or message.flags == ACK_REQUIRED)
      and message.status ~= "bad"
      and byte(message.raw, 26) == 0
      and sub(message.raw, 33, 48) == NO_EXTENSIONS
end

-- Enter a message that is complete, or known not to become so. `now` is the frame that tells it.
local function add_message(message, now)
   message_count = message_count + 1
   message.number = message_count
   message.late = not at_end and message.frame.number ~= now.number
   message.regular = is_regular(message)
   analyse(message)
   insert(shows(at_end and message.frame.number or now.number, "messages"), message)
end
