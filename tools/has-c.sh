#!/usr/bin/env bash
# Succeeds when programs in C can be compiled: a compiler without the headers of libc is of no use.
printf '#include <stdlib.h>\nint main(void) { return 0; }\n' | "${CC:-gcc}" -x c -o /dev/null - 2>/dev/null
