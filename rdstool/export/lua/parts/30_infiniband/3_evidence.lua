-- What a flow of packets tells of itself: whether it is RDS, which numbers it has, and how long its packets can be.

local observe, note_numbers, fits, note_mtu
do
   local MAX_STEP = 4096
   local KNOWN_BITS = 0x40 -- flags below this are known to some kernel
   local NUMBER_SLACK = 4096

   -- The header, where it carries a good checksum and says nothing that no kernel would.
   local function plausible_header(raw)
      if #raw < HEADER_BYTES or checksum_status(raw) ~= "good" then
         return nil
      end
      local flags, length, ports = byte(raw, 25), u32(raw, 17), sub(raw, 21, 24)
      if flags >= KNOWN_BITS or length > MAX_MESSAGE_BYTES or sub(raw, 27, 30) ~= ZERO4 then
         return nil
      end
      local sequence = u64(raw, 1)
      if sequence == 0 then
         if ports ~= ZERO4 or (u64(raw, 9) == 0 and length == 0) then
            return nil
         end
      elseif ports == ZERO4 then
         return nil
      end
      return { sequence = sequence, key = sub(raw, 17, 24) }
   end

   local function agree(before, after)
      if before.sequence == 0 or after.sequence == 0 then
         return true
      elseif before.sequence == after.sequence then
         return before.key == after.key
      end
      local step = after.sequence - before.sequence
      return step > 0 and step <= MAX_STEP
   end

   -- Look at a packet of a flow that is not decided yet.
   function observe(flow, packet)
      local what = packet.what
      if what.part ~= SEND or not what.starts then
         return
      elseif #packet.data < what.header + HEADER_BYTES then
         -- Cut short in the capture, it tells nothing.
         flow.foreign_frames = flow.foreign_frames + (packet.length < what.header + HEADER_BYTES and 1 or 0)
         return
      end
      local header = plausible_header(sub(packet.data, what.header + 1, what.header + HEADER_BYTES))
      if header then
         flow.good = flow.good + 1
         flow.run = flow.last and agree(flow.last, header) and flow.run + 1 or 1
         flow.chain = max(flow.chain, flow.run)
      else
         flow.foreign_frames = flow.foreign_frames + 1
         flow.run = 0
      end
      flow.last = header
   end

   -- The lowest and the highest packet number seen: of requests, or of answers. What is sent again has lower ones.
   function note_numbers(flow, packet)
      local name, psn = packet.what.part == RESPONSE and "answered_numbers" or "request_numbers", packet.psn
      local numbers = flow[name]
      if not numbers then
         flow[name] = { low = psn, high = psn }
      elseif ahead(numbers.high, psn, PSN_MODULUS) > 0 then
         numbers.high = psn
      elseif ahead(numbers.low, psn, PSN_MODULUS) < 0 then
         numbers.low = psn
      end
   end

   -- Whether another flow is the opposite direction: above 0 for yes, below for no, 0 for not known. The answers in one carry
   -- the numbers of the requests in the other.
   function fits(flow, other)
      local score = 0
      for asks, answers in pairs({ [flow] = other, [other] = flow }) do
         local numbers, replies = asks.request_numbers, answers.answered_numbers
         if numbers and replies then
            local width = (numbers.high - numbers.low) % PSN_MODULUS
            local near = (replies.high - numbers.low + NUMBER_SLACK) % PSN_MODULUS <= width + 2 * NUMBER_SLACK
            score = score + (near and 1 or -1)
         end
      end
      return score
   end

   -- Learn the path MTU from a packet that is as long as it.
   function note_mtu(flow, packet)
      local code = packet.opcode
      if code == 0x00 or code == 0x06 or code == 0x0d then
         local size = packet.length - packet.what.header
         for _, mtu in ipairs(MTUS) do
            if size == mtu then
               flow.mtu = mtu
            end
         end
      end
   end
end
