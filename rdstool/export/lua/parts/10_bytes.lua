-- Bytes and numbers. Offsets into Lua strings count from 1, offsets into the wire from 0.
-- Numbers of 64 bits are kept as floats, which are exact up to 2^53; the tree shows them from the packet itself.

local byte, sub, rep, find, format = string.byte, string.sub, string.rep, string.find, string.format
local floor, huge, min, max = math.floor, math.huge, math.min, math.max
local insert, remove, concat = table.insert, table.remove, table.concat
local unpack = table.unpack
-- Methods of Wireshark's objects, looked up once: asked of an object they cost as much again as what they do.
local captured_len, reported_len, raw_bytes = Tvb.len, Tvb.reported_len, Tvb.raw
local call_dissector, try_table, referenced = Dissector.call, DissectorTable.try, TreeItem.referenced
-- So are the functions behind what a frame tells of itself, from its `pinfo`: once the first frame is asked for its number.
local is_visited, time_of, source_of, destination_of, columns_of, text_of_address
local number_of

function number_of(pinfo)
   local function getter(name)
      local meta = getmetatable(pinfo)
      local getters = type(meta) == "table" and meta.__getters
      return getters and getters[name] or function(object)
         return object[name]
      end
   end
   number_of, is_visited, time_of = getter("number"), getter("visited"), getter("abs_ts")
   source_of, destination_of, columns_of = getter("net_src"), getter("net_dst"), getter("cols")
   local address = getmetatable(pinfo.net_src)
   text_of_address = type(address) == "table" and address.__tostring or tostring
   return number_of(pinfo)
end

-- Headers are read from a frame's first bytes, and payload, which may be kept, is copied once.
local HEAD_BYTES = 128

local function first_bytes(tvb)
   return raw_bytes(tvb, 0, min(captured_len(tvb), HEAD_BYTES))
end

-- What was captured between two offsets.
local function bytes_between(tvb, start, stop)
   local size = min(captured_len(tvb), stop) - start
   return size > 0 and raw_bytes(tvb, start, size) or ""
end

local TWO31, TWO32 = 2147483648.0, 4294967296.0
local ZERO4, ZERO8 = rep("\0", 4), rep("\0", 8)
local NO_EXTENSIONS = rep("\0", 16)

local function u16(s, i)
   local a, b = byte(s, i, i + 1)
   return a * 256 + b
end

local function u24(s, i)
   local a, b, c = byte(s, i, i + 2)
   return (a * 256 + b) * 256 + c
end

local function u32(s, i)
   local a, b, c, d = byte(s, i, i + 3)
   return ((a * 256 + b) * 256 + c) * 256 + d
end

local function u64(s, i)
   return u32(s, i) * TWO32 + u32(s, i + 4)
end

-- Whether bit number `bit` (0: the least significant) of `value` is set.
local function has(value, mask)
   return value % (2 * mask) >= mask
end

-- How far b lies ahead of a among numbers that wrap, the short way round.
local function ahead(a, b, modulus)
   local distance = (b - a) % modulus
   if distance >= modulus / 2 then
      return distance - modulus
   end
   return distance
end

local function whole(number)
   return format("%.0f", number)
end

local function plural(count, noun)
   return format(count == 1 and "%.0f %s" or "%.0f %ss", count, noun)
end

local checksum_status
do
   -- Twelve words of 16 bits, added up.
   local function words_sum(a, b, c, d, e, f, g, h, i, j, k, l, m, n, o, p, q, r, s, t, u, v, w, x)
      return (a + c + e + g + i + k + m + o + q + s + u + w) * 256 + b + d + f + h + j + l + n + p + r + t + v + x
   end

   -- The Internet checksum: "absent", "good" or "bad" (protocol.md 1.1). `raw` has the 48 bytes of a header.
   function checksum_status(raw)
      if u16(raw, 31) == 0 then
         return "absent"
      end
      local total = words_sum(byte(raw, 1, 24)) + words_sum(byte(raw, 25, 48))
      total = total % 65536 + floor(total / 65536)
      total = total % 65536 + floor(total / 65536)
      return total == 65535 and "good" or "bad"
   end
end

-- An address of 4 or 16 bytes as text: IPv4 where it is mapped.
local MAPPED = rep("\0", 10) .. "\255\255"

local function address_text(raw)
   if #raw == 4 then
      return format("%d.%d.%d.%d", byte(raw, 1, 4))
   end
   if sub(raw, 1, 12) == MAPPED then
      return format("%d.%d.%d.%d", byte(raw, 13, 16))
   end
   local groups = {}
   for index = 1, 8 do
      groups[index] = u16(raw, 2 * index - 1)
   end
   -- The longest run of zeros, of two at least, becomes "::".
   local best, length, run = 0, 1, 0
   for index = 1, 8 do
      run = groups[index] == 0 and run + 1 or 0
      if run > length then
         best, length = index - run + 1, run
      end
   end
   local text = {}
   for index = 1, 8 do
      groups[index] = format("%x", groups[index])
   end
   if best == 0 then
      return concat(groups, ":")
   end
   text[1] = concat(groups, ":", 1, best - 1)
   text[2] = concat(groups, ":", best + length, 8)
   return concat(text, "::")
end

-- The bytes of an address that was made text: such strings sort as addresses do.
local function address_bytes(text)
   local lid = text:match("^lid:(%d+)$")
   if lid then
      return rep("\255", 14) .. string.char(floor(lid / 256), lid % 256)
   elseif find(text, ".", 1, true) then
      local prefix = byte(text, 1) == 58 and rep("\0", 12) or MAPPED -- a colon: an old form of IPv6
      return prefix .. string.char(text:match("(%d+)%.(%d+)%.(%d+)%.(%d+)$"))
   end
   local sides = { "", "" }
   for index, side in ipairs({ text:match("^(.-)::(.*)$") }) do
      sides[index] = side
   end
   if not find(text, "::", 1, true) then
      sides[1] = text
   end
   for index, side in ipairs(sides) do
      sides[index] = side:gsub("(%x+):?", function(group)
         local number = tonumber(group, 16)
         return string.char(floor(number / 256), number % 256)
      end)
   end
   return sides[1] .. rep("\0", 16 - #sides[1] - #sides[2]) .. sides[2]
end

-- Addresses of IP as text, by their bytes.
local host_of
do
   local HOSTS_LIMIT = 65536
   local host_texts, host_count = {}, 0

   function host_of(raw)
      local text = host_texts[raw]
      if not text then
         if host_count >= HOSTS_LIMIT then
            host_texts, host_count = {}, 0
         end
         text = address_text(raw)
         host_texts[raw], host_count = text, host_count + 1
      end
      return text
   end
end

-- What a filter calls an address that Wireshark shows; IPv4-mapped ones in dotted form.
local function host_text(address)
   local text = text_of_address(address)
   if byte(text, 1) == 58 then -- a colon
      return text:match("^::ffff:(%d+%.%d+%.%d+%.%d+)$") or text
   end
   return text
end
