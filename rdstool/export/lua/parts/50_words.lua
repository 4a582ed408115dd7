-- What a message is, in plain words: for the info column and the tree.

local headline, cm_words
do
   local NAMED_PORTS = 8

   local function join_ports(ports)
      local named = concat(ports, ", ", 1, min(#ports, NAMED_PORTS))
      if #ports > NAMED_PORTS then
         named = format("%s and %d more", named, #ports - NAMED_PORTS)
      end
      return (#ports == 1 and "port " or "ports ") .. named
   end

   local function bitmap_words(message)
      local ports = message.ports
      if not ports then
         return "bitmap not seen whole"
      elseif not ports[1] then
         return message.cleared and message.cleared[1] and "no port congested any more" or "no port congested"
      end
      return join_ports(ports) .. " congested"
   end

   local function handshake_words(parsed)
      local npaths, generation = extension_of(parsed, EXT.NPATHS), extension_of(parsed, EXT.GEN_NUM)
      local words = npaths and "supports " .. plural(u16(npaths, 1), "path") or "single path"
      if generation then
         words = format("%s, generation 0x%x", words, u32(generation, 1))
      end
      return words
   end

   local function extension_words(words, message, parsed)
      for _, item in ipairs(parsed.items) do
         if item.type == EXT.RDMA then
            local moved = extension_of(parsed, EXT.RDMA_BYTES)
            local verb, size = "RDMA", nil
            local first = message.operations and message.operations[1]
            if moved then
               verb = byte(moved, 5) == 1 and "RDMA write" or byte(moved, 5) == 2 and "RDMA read" or verb
               size = u32(moved, 1)
            elseif first then
               verb, size = first.kind:gsub("rdma%-", "RDMA "), 0
               for _, operation in ipairs(message.operations) do
                  size = size + operation.length
               end
            end
            local of = size and " of " .. plural(size, "byte") or ""
            insert(words, format("message follows %s%s with key 0x%x", verb, of, u32(item.raw, 1)))
         elseif item.type == EXT.RDMA_DEST then
            insert(words, format("offers memory with key 0x%x", u32(item.raw, 1)))
         end
      end
      if parsed.problem then
         insert(words, "extension headers: " .. parsed.problem)
      end
   end

   -- What is special about a message; an ordinary one has no words.
   local function words_for(message)
      local words = {}
      if has(message.flags, RETRANSMITTED) then
         insert(words, message.original and format("resent, first in frame %d", message.original.number) or "resent")
      end
      local kind, field = message.kind, sub(message.raw, 33, 48)
      local parsed = parse_extensions(field)
      if kind == "congestion" then
         insert(words, bitmap_words(message))
      elseif kind == "probe" or kind == "probe-reply" then
         insert(words, handshake_words(parsed))
      elseif kind == "ack" then
         insert(words, "acknowledges up to " .. whole(message.ack))
      end
      if field ~= NO_EXTENSIONS then
         extension_words(words, message, parsed)
      end
      if byte(message.raw, 26) ~= 0 then
         insert(words, "grants " .. plural(byte(message.raw, 26), "credit"))
      end
      if not message.complete and kind ~= "ack" then
         insert(words, format("incomplete: %.0f of %.0f bytes captured", message.seen, message.length))
      end
      if message.status == "bad" then
         insert(words, "header checksum wrong")
      end
      if message.inferred then
         insert(words, "found by search")
      end
      if message.late then
         insert(words, format("complete in frame %d", message.frame.number))
      end
      return concat(words, ", ")
   end

   function headline(message)
      local text = format(
         "%s %d → %d Seq=%.0f Len=%.0f",
         message.kind,
         message.sport,
         message.dport,
         message.sequence,
         message.length
      )
      if message.kind == "data" and message.regular then
         return text
      end
      local words = words_for(message)
      return words == "" and text or text .. ", " .. words
   end

   function cm_words(message)
      local words = { "RDMA-CM " .. message.name }
      if message.private then
         local said = private_fields(message)
         insert(words, format("RDS %d.%d", said.major, said.minor))
         if said.tos ~= 0 then
            insert(words, format("TOS %d", said.tos))
         end
      end
      if message.attribute == REQ or message.attribute == REP then
         insert(words, format("queue pair 0x%x", u24(message.body, message.attribute == REQ and 33 or 13)))
      elseif message.attribute == REJ then
         insert(words, format("reason %d", u16(message.body, 11)))
      end
      if message.problem then
         insert(words, message.problem)
      end
      return concat(words, ", ")
   end
end
