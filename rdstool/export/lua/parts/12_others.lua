-- Wireshark, and the other dissectors that it has.

-- Whether it is of this version or later.
local function is_wireshark(wanted_major, wanted_minor)
   local major, minor = get_version():match("^(%d+)%.(%d+)")
   major, minor = tonumber(major) or 0, tonumber(minor) or 0
   return major > wanted_major or major == wanted_major and minor >= wanted_minor
end

-- Let another dissector do its work; nil where it gave up. On what, it has shown already: that is no error of this script.
-- (The text behind the name is garbage in 4.4 where a dissector has a bug.)
local function hand_over(call, ...)
   local fine, used = pcall(call, ...)
   if fine then
      return used
   elseif not find(tostring(used), "Dissector%w*_%w+: ") then
      error(used, 0)
   end
   return nil
end
