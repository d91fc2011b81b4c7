#!/usr/bin/env bash
# lua-cjson after os.setlocale: valid arrays of whole numbers are read as one number.
#
# Guess: after os.setlocale to one with a decimal comma, lua-cjson may write fractions with a comma,
# since it formats by printf. Whole numbers have no decimal point, so they are safe both ways.
#
# Seen (Debian 12: lua-cjson 2.1.0+dfsg-2.2, lua5.4 5.4.4-3, glibc 2.36): writing is as guessed,
# [1.5,2] becomes "[1,5,2]". But reading whole numbers is not safe either: the decimal point is
# noted when the module is loaded, and where it was a point then, numbers are read by plain strtod,
# which by now takes a comma for the decimal point. The array [1,5] comes as one number, 1.5, and
# [10,20,30] as 10.2 and 30, without an error.
#
# Whoever lets programs set a locale must keep numbers from lua-cjson, or load it after that.
#
# Needs Debian's archive (apt-get download) and localedef; installs nothing on the system. Exits
# with 1 if the behaviour has changed, with 2 if it cannot be tried.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
for package in lua5.4=5.4.4-3+deb12u1 liblua5.4-0=5.4.4-3+deb12u1 lua-cjson=2.1.0+dfsg-2.2 locales; do
    apt-get download "$package" >/dev/null 2>&1 || { echo "cannot download $package" >&2; exit 2; }
done
for file in ./*.deb; do dpkg -x "$file" root; done
mkdir locales
I18NPATH=$tmp/root/usr/share/i18n localedef -i de_DE -f UTF-8 locales/de_DE.UTF-8 >/dev/null 2>&1 || true
lib=$(dirname "$(find root -name 'liblua5.4.so.0' | head -1)")
cat >try.lua <<'LUA'
local cjson = require "cjson"
local function show(text)
  local list = cjson.decode(text)
  for i, v in ipairs(list) do list[i] = ("%.1f"):format(v):gsub(",", ".") end
  return table.concat(list, " and ")
end
print("before", cjson.encode { 1.5, 2 }, show "[1,5]", show "[10,20,30]")
assert(os.setlocale("de_DE.UTF-8"), "no such locale")
print("after", cjson.encode { 1.5, 2 }, show "[1,5]", show "[10,20,30]")
LUA
LD_LIBRARY_PATH=$lib LOCPATH=$tmp/locales LUA_CPATH_5_4="$lib/lua/5.4/?.so" \
    root/usr/bin/lua5.4 try.lua | tee seen
printf 'before\t[1.5,2]\t1.0 and 5.0\t10.0 and 20.0 and 30.0\nafter\t[1,5,2]\t1.5\t10.2 and 30.0\n' >expected
diff expected seen && echo "as described"
