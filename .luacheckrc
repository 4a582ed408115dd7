-- What Wireshark gives to Lua, and what of Lua is to be taken for granted: only what 5.2 and 5.4 share.
std = "lua52+min"
max_line_length = false
globals = { "DissectorTable" }
read_globals = {
   "ByteArray", "Dissector", "Listener", "NSTime", "Pref", "Proto", "ProtoExpert", "ProtoField", "MENU_STAT_UNSORTED",
   "TextWindow", "TreeItem", "Tvb", "TvbRange", "UInt64", "base", "expert", "ftypes", "get_version", "gui_enabled", "register_menu",
   "register_stat_cmd_arg", "set_plugin_info", "set_filter", "apply_filter", "retap_packets", "wtap_encaps",
}
