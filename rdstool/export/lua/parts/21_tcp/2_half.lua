-- One direction of a TCP connection: segments in, contiguous stream bytes, and from them messages out, as a real
-- receiver would take them. Wireshark's own reassembly stops at the first hole of a capture; this one goes on behind
-- it where the length of a message, or a chain of headers, tells the next boundary.
-- Stream offsets count payload bytes from the first one. The first copy of a byte wins, as in Linux.

local new_half, offset_in, flush, settle, take, go_on
do
   local MAX_PENDING_BYTES = 4194304 -- that may wait behind a hole
   local MAX_PENDING_SEGMENTS = 4096
   local MAX_HOLD_FRAMES = 20000 -- of the capture that a hole may stay open
   local MAX_SEARCH_BYTES = 4194304
   local MAX_ODDITIES = 2 -- a header at a known boundary with more is none

   function new_half(connection, direction)
      return {
         connection = connection,
         lane = connection.stream.lanes[direction],
         direction = direction,
         base = nil, -- TCP sequence number of stream offset 0
         next = 0, -- everything before was delivered
         latest = nil, -- the frame with which it was
         acked = 0,
         boundary = 0, -- where the next header begins, or the search goes on
         last_sequence = 0,
         open = nil, -- the message under way: raw, position, stop, first; and what came of it: parts, seen, done
         pieces = {}, -- what was delivered and belongs to no message yet: start, size, data or nil, frame, done
         head = 1, -- the first of them
         tail = 0,
         pending = {}, -- what came ahead of a hole, ascending, without overlap
         pending_bytes = 0,
         -- In a second pass all can be told: segments that stand late in the capture are waited for.
         patient = rds.prefs.settle,
      }
   end

   -- Stream offset of a TCP sequence number.
   function offset_in(half, number)
      local distance = (number - half.base - half.next) % TWO32
      return half.next + (distance < TWO31 and distance or distance - TWO32)
   end

   -- Of segments that only went on with a message, numbers were noted: the frame of the last one is made once it is needed.
   local function catch_up(half)
      if half.late_number then
         half.latest = { number = half.late_number, time = half.late_time }
         half.open.done, half.late_number = half.latest, nil
      end
   end

   local function push(half, start, size, data, frame, done, hole)
      local last = half.pieces[half.tail] or half.open
      if last and last.done.number > done.number then
         done = last.done
      end
      half.tail = half.tail + 1
      half.pieces[half.tail] = { start = start, size = size, data = data, frame = frame, done = done, hole = hole }
   end

   -- Payload of the message under way. It stays in parts until somebody looks at it.
   local function extend(open, data, done)
      open.parts[#open.parts + 1] = data
      open.seen = open.seen + #data
      if done.number > open.done.number then
         open.done = done
      end
   end

   -- Take contiguous bytes; where `data` is shorter than `size` the frame was cut, or the bytes were not captured.
   local function deliver(half, start, size, data, frame, done, hole)
      local open = half.open
      local room = open and open.stop - start or 0
      half.next = start + size
      if not half.latest or done.number > half.latest.number then
         half.latest = done
      end
      if room > 0 then
         local most = min(room, size)
         extend(open, #data > most and sub(data, 1, most) or data, done)
         if size <= room then
            return
         end
         start, size, data = open.stop, size - room, sub(data, room + 1)
      end
      local captured = min(#data, size)
      if captured > 0 then
         push(half, start, captured, captured == #data and data or sub(data, 1, captured), frame, done)
      end
      if captured < size then
         push(half, start + captured, size - captured, nil, frame, done, hole)
      end
   end

   -- Index of the piece that holds a stream offset.
   local function piece_at(half, position)
      local low, high = half.head, half.tail
      while low < high do
         local middle = floor((low + high + 1) / 2)
         if half.pieces[middle].start <= position then
            low = middle
         else
            high = middle - 1
         end
      end
      return low
   end

   -- Bytes between two offsets, and how many of them are missing; with `fill`, missing ones are filled in.
   local function read(half, start, stop, fill)
      local parts, missing = {}, 0
      local index = piece_at(half, start)
      while start < stop do
         local piece = half.pieces[index]
         if not piece or index > half.tail then
            break
         end
         local upto = min(stop, piece.start + piece.size)
         if upto > start then
            if piece.data then
               insert(parts, sub(piece.data, start - piece.start + 1, upto - piece.start))
            else
               missing = missing + upto - start
               if fill then
                  insert(parts, rep(FILLER, upto - start))
               end
            end
            start = upto
         end
         index = index + 1
      end
      return concat(parts), missing
   end

   local function forget_before(half, position)
      local pieces = half.pieces
      while half.head <= half.tail do
         local piece = pieces[half.head]
         if piece.start + piece.size > position then
            return
         end
         pieces[half.head] = nil
         half.head = half.head + 1
      end
   end

   local function lose(half, position, search_from)
      half.search = { since = position, last_sequence = half.last_sequence }
      half.boundary = search_from
      half.inferred = false
   end

   local function make_message(half, raw, position, first_frame, done)
      local sequence = u64(raw, 1)
      if sequence > 0 then
         half.last_sequence = sequence
      end
      local message = setmetatable({ lane = half.lane, raw = raw, frame = done, position = position }, MESSAGE)
      if first_frame ~= done then
         message.first = first_frame
      end
      if half.inferred then
         message.inferred = true
         half.inferred = false
      end
      return message
   end

   -- The captured bytes between two offsets as parts, and how many they are.
   local function parts_between(half, start, upto)
      local parts, seen = {}, 0
      local index = piece_at(half, start)
      while start < upto do
         local piece = half.pieces[index]
         local from, size = piece.start, piece.size
         local data = piece.data
         if data then
            if from < start or from + size > upto then
               data = sub(data, start - from + 1, upto - from)
            end
            seen = seen + #data
            parts[#parts + 1] = data
         end
         start = from + size
         index = index + 1
      end
      return parts, seen
   end

   -- Enter a message. What follows it is next.
   local function emit(half, raw, position, stop, first_frame, done, parts, seen, now)
      local message = make_message(half, raw, position, first_frame, done)
      message.parts = parts
      if seen < stop - position - HEADER_BYTES then
         message.seen, message.complete = seen, false
      end
      add_message(message, now)
      half.boundary = min(stop, half.next)
      forget_before(half, half.boundary)
   end

   -- Read messages from the boundary on. Returns true where the framing was lost and a search was started.
   local function walk(half, now)
      while half.boundary + HEADER_BYTES <= half.next do
         local position = half.boundary
         local index = piece_at(half, position)
         local piece = half.pieces[index]
         local raw
         if piece.data and position + HEADER_BYTES <= piece.start + piece.size then
            raw = sub(piece.data, position - piece.start + 1, position - piece.start + HEADER_BYTES)
         else
            local missing
            raw, missing = read(half, position, position + HEADER_BYTES)
            if missing > 0 then
               local at = index
               while half.pieces[at].data do
                  at = at + 1
               end
               lose(half, position, half.pieces[at].start + half.pieces[at].size)
               return true
            end
         end
         local length = u32(raw, 17)
         local stop = position + HEADER_BYTES + length
         local regular = length <= MAX_MESSAGE_BYTES
            and sub(raw, 9, 16) == ZERO8
            and byte(raw, 26) == 0
            and sub(raw, 27, 32) == "\0\0\0\0\0\0"
         if not regular then
            if oddities(raw, 1) > MAX_ODDITIES then
               lose(half, position, position + 1)
               return true
            elseif length > MAX_MESSAGE_BYTES then
               -- Reported, but not trusted to find the next message.
               local behind = position + HEADER_BYTES
               local last = half.pieces[piece_at(half, behind - 1)]
               local message = make_message(half, raw, position, piece.frame, last.done)
               message.parts, message.seen, message.complete = {}, 0, false
               message.finish = behind
               add_message(message, now)
               lose(half, behind, behind)
               return true
            end
         end
         local parts, seen = parts_between(half, position + HEADER_BYTES, min(stop, half.next))
         if stop > half.next then
            local open = { raw = raw, position = position, stop = stop, first = piece.frame, parts = parts, seen = seen }
            open.done = half.pieces[half.tail].done
            half.open = open
            forget_before(half, half.next)
            return false
         end
         local done = half.pieces[piece_at(half, stop - 1)].done
         emit(half, raw, position, stop, piece.frame, done, parts, seen, now)
      end
      return false
   end

   -- What a search has to know of how the bytes came.
   local function segmentation(half)
      local starts, ends = {}, {}
      for index = half.head, half.tail do
         local piece = half.pieces[index]
         starts[piece.start], ends[piece.start + piece.size] = true, true
      end
      return {
         starts = starts,
         ends = ends,
         missing = function(start, stop)
            local _, missing = read(half, start, min(stop, half.next))
            return missing
         end,
      }
   end

   -- Where a search has to stop: before the first hole that no message can span. Returns that place and where it ends.
   local function span_limit(half)
      for index = piece_at(half, half.boundary), half.tail do
         local piece = half.pieces[index]
         if not piece.data and piece.size > MAX_MESSAGE_BYTES then
            return max(piece.start, half.boundary), piece.start + piece.size
         end
      end
      return half.next, nil
   end

   local function find_boundary(half, final)
      local segments = segmentation(half)
      while half.head <= half.tail and half.boundary < half.next do
         local limit, behind = span_limit(half)
         local data = read(half, half.boundary, limit, true)
         local found, keep_from = look(half.search, data, half.boundary, segments, final or behind ~= nil)
         if found then
            half.boundary = found
            half.search = nil
            half.inferred = true
            forget_before(half, found)
            return true
         end
         half.boundary = behind or keep_from
         if not behind then
            half.boundary = max(half.boundary, half.next - MAX_SEARCH_BYTES)
            forget_before(half, half.boundary)
            return false
         end
         forget_before(half, half.boundary)
      end
      return false
   end

   -- Take all messages that are there.
   local function read_messages(half, now, final)
      while true do
         if half.search and not find_boundary(half, final) then
            return
         end
         local open = half.open
         if open then
            if open.stop > half.next then
               return
            end
            half.open = nil
            emit(half, open.raw, open.position, open.stop, open.first, open.done, open.parts, open.seen, now)
         end
         if not walk(half, now) then
            return
         end
      end
   end

   -- Report the message that is under way as incomplete: `closing` ended it before its last byte was seen.
   function flush(half, closing, now)
      catch_up(half)
      local open = half.open
      if open then
         half.open = nil
         if open.first.number > closing.number then
            closing = open.first -- It was on its way when the other side ended the connection.
         end
         emit(half, open.raw, open.position, open.stop, open.first, closing, open.parts, open.seen, now)
      end
   end

   -- Keep what of a segment ahead of a hole is not pending yet.
   local function hold(half, start, size, data, frame)
      local pending = half.pending
      local at = #pending + 1
      while at > 1 and pending[at - 1].start > start do
         at = at - 1
      end
      if at > 1 and pending[at - 1].start + pending[at - 1].size > start then
         at = at - 1
      end
      local stop, from = start + size, start
      local function keep(begin, upto)
         local part = { start = begin, size = upto - begin, frame = frame }
         part.data = sub(data, begin - start + 1, upto - start)
         insert(pending, at, part)
         half.pending_bytes = half.pending_bytes + #part.data
         at = at + 1
      end
      while from < stop do
         local held = pending[at]
         if not held or held.start >= stop then
            keep(from, stop)
            return
         end
         if held.start > from then
            keep(from, held.start)
         end
         from = max(from, held.start + held.size)
         at = at + 1
      end
   end

   -- Deliver what the bytes of `now` have made contiguous.
   local function release(half, now)
      local pending = half.pending
      while pending[1] and pending[1].start <= half.next do
         local piece = remove(pending, 1)
         half.pending_bytes = half.pending_bytes - #piece.data
         local stop = piece.start + piece.size
         if stop > half.next then
            local skip = half.next - piece.start
            local data = skip > 0 and sub(piece.data, skip + 1) or piece.data
            local done = now.number > piece.frame.number and now or piece.frame
            deliver(half, half.next, stop - half.next, data, piece.frame, done)
         end
      end
   end

   -- Take the first hole as not captured, and deliver what waited behind it.
   local function give_up_hole(half)
      local first = half.pending[1]
      -- What waited was complete no earlier than what came before the hole.
      local done = first.frame
      if half.latest and half.latest.number > done.number then
         done = half.latest
      end
      deliver(half, half.next, first.start - half.next, "", first.frame, done, true)
      release(half, done)
   end

   -- Give up holes that can no longer fill, then read the messages. Without `acked`, what the peer has acknowledged is no
   -- reason where the capture is read twice.
   function settle(half, now, final, acked)
      catch_up(half)
      acked = acked or not half.patient and half.acked or -1
      while half.pending[1] do
         local first = half.pending[1]
         local too_much = half.pending_bytes > MAX_PENDING_BYTES or #half.pending > MAX_PENDING_SEGMENTS
         local old = first.frame.number < now.number - MAX_HOLD_FRAMES
         if not (acked >= first.start or too_much or old or final) then
            break
         end
         give_up_hole(half)
      end
      read_messages(half, now, final)
   end

   -- The most common case: the next segment goes on with a message, and does not end it. Returns whether it is so.
   function go_on(half, data, number, time)
      local open, stop = half.open, half.next + #data
      if not open or stop >= open.stop then
         return false
      end
      local parts = open.parts
      parts[#parts + 1] = data
      open.seen = open.seen + #data
      half.next, half.late_number, half.late_time = stop, number, time
      shown[number] = shown[number] or half.lane.part_frame
      return true
   end

   local ONLY_FLAG_BYTES = "\0\0\0\0\0\0\0" -- credit, padding and checksum

   -- The common case: a segment in order, with nothing waiting. Messages that lie whole in it are not copied.
   -- Returns how many bytes were taken.
   local function take_whole_messages(half, data, frame)
      local at, count, lane = 1, #data, half.lane
      while at + HEADER_BYTES - 1 <= count do
         local stop = at + HEADER_BYTES + u32(data, at + 16)
         if
            stop > count + 1
            or sub(data, at + 8, at + 15) ~= ZERO8
            or sub(data, at + 25, at + 31) ~= ONLY_FLAG_BYTES
         then
            break
         end
         local position = half.next + at - 1
         local raw = sub(data, at, at + HEADER_BYTES - 1)
         local message
         if is_next(lane, raw, position) then
            local sequence = lane.highest + 1
            half.last_sequence, half.inferred = sequence, false
            message = { lane = lane, raw = raw, frame = frame, position = position, at = at - 1, expected = sequence }
            lane.finish, lane.expected = half.next + stop - 1, sequence + 1
            lane.highest, lane.previous, lane.new = sequence, sequence, true
            enter(setmetatable(message, MESSAGE), lane, frame)
         else
            message = make_message(half, raw, position, frame, frame)
            message.at = at - 1
            if byte(raw, 25) == CONG_BITMAP then
               message.payload = sub(data, at + HEADER_BYTES, stop - 1)
            end
            add_message(message, frame)
         end
         at = stop
      end
      return at - 1
   end

   -- Take a segment's payload: `size` bytes on the wire, of which `data` was captured.
   function take(half, offset, size, data, frame)
      catch_up(half)
      local stop = offset + size
      if stop <= half.next then
         return -- seen before
      elseif offset > half.next then
         hold(half, offset, size, data, frame)
         settle(half, frame)
         return
      end
      half.latest = frame
      local skip = half.next - offset
      if skip == 0 and #data == size and half.boundary == offset and not half.search and not half.pending[1] then
         local taken = take_whole_messages(half, data, frame)
         half.next = offset + taken
         half.boundary = half.next
         if taken == size then
            return
         end
         skip = taken
      end
      deliver(half, half.next, size - skip, sub(data, skip + 1), frame, frame)
      release(half, frame)
      settle(half, frame)
   end
end
