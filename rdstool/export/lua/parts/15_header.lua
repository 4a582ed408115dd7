-- The message header (protocol.md 1) and its extension headers (2).

local HEADER_BYTES = 48
local MAX_MESSAGE_BYTES = 1048576
local BITMAP_BYTES = 8192
local PROBE_PORT = 1
local CONG_BITMAP, ACK_REQUIRED, RETRANSMITTED, EXTHDR_EXTENSION = 0x01, 0x02, 0x04, 0x20

-- Flags that a kernel sends over TCP, and bits that any kernel knows.
local TCP_FLAGS = { [0] = true, [CONG_BITMAP] = true, [RETRANSMITTED] = true }

local function is_heartbeat(flags)
   return has(flags, 0x08) or has(flags, 0x10)
end

-- The kind of a message; the first test that holds decides (protocol.md 1.3).
local function kind_of(tcp, length, sport, dport, flags)
   local no_ports = sport == 0 and dport == 0
   if no_ports and flags >= 8 and is_heartbeat(flags) then
      return "heartbeat"
   elseif no_ports and not tcp and length == 0 then
      return "ack"
   elseif flags == CONG_BITMAP then
      return "congestion"
   elseif dport == 0 and sport ~= 0 then
      return tcp and sport == PROBE_PORT and "probe" or "ping"
   elseif sport == 0 and dport ~= 0 then
      return tcp and dport == PROBE_PORT and "probe-reply" or "pong"
   end
   return "data"
end

-- Extension headers in their order, each {type, offset in the field, name, size}; and what is wrong, in words.
local parse_extensions
do
   local TYPE_LIMIT = 16
   local parsed_extensions = {}
   local parsed_count = 0
   local PARSED_LIMIT = 1024
   local NONE = { items = {}, used = 1 }

   function parse_extensions(data)
      if data == NO_EXTENSIONS then
         return NONE
      end
      local known = parsed_extensions[data]
      if known then
         return known
      end
      local result = { items = {}, used = 16 }
      local at = 0
      while at < 16 do
         local kind = byte(data, at + 1)
         if kind == 0 then
            result.used = at + 1
            break
         elseif kind >= TYPE_LIMIT then
            result.used = at
            result.problem = format("type %d at byte %d is out of range", kind, at)
            break
         end
         local extension = EXTENSIONS[kind]
         if not extension then
            insert(result.items, { type = kind, at = at })
            at = at + 1
         elseif at + 1 + extension.size > 16 then
            result.used = at
            result.problem = format("%s at byte %d does not fit", extension.name, at)
            break
         else
            local raw = sub(data, at + 2, at + 1 + extension.size)
            insert(result.items, { type = kind, at = at, extension = extension, raw = raw })
            at = at + 1 + extension.size
         end
      end
      if parsed_count >= PARSED_LIMIT then
         parsed_extensions, parsed_count = {}, 0
      end
      parsed_extensions[data] = result
      parsed_count = parsed_count + 1
      return result
   end
end

-- The first extension header of a type, nil where there is none.
local function extension_of(parsed, kind)
   for _, item in ipairs(parsed.items) do
      if item.type == kind and item.raw then
         return item.raw
      end
   end
   return nil
end

-- How much in a header no kernel sends over TCP; 0 for every one that it may send. `i` is where it begins in `s`.
local function oddities(s, i)
   local flags = byte(s, i + 24)
   local congestion = flags == CONG_BITMAP
   local count = 0
   local function odd(test)
      if test then
         count = count + 1
      end
   end
   odd(sub(s, i + 8, i + 15) ~= ZERO8)
   odd(byte(s, i + 25) ~= 0)
   odd(sub(s, i + 26, i + 29) ~= ZERO4)
   odd(sub(s, i + 30, i + 31) ~= "\0\0")
   odd(not TCP_FLAGS[flags])
   odd(u32(s, i + 16) > MAX_MESSAGE_BYTES)
   odd((sub(s, i, i + 7) == ZERO8) ~= congestion)
   odd((sub(s, i + 20, i + 23) == ZERO4) ~= congestion)
   odd(parse_extensions(sub(s, i + 32, i + 47)).problem ~= nil)
   return count
end

-- The ports that a congestion bitmap of 8192 bytes marks, ascending (protocol.md 3.1).
local function congested_ports(bitmap)
   local ports = {}
   local at = find(bitmap, "[^\0]")
   while at do
      local bits = byte(bitmap, at)
      for bit = 0, 7 do
         if has(bits, 2 ^ bit) then
            insert(ports, (at - 1) * 8 + bit)
         end
      end
      at = find(bitmap, "[^\0]", at + 1)
   end
   return ports
end
