"""COUNT(*) used to find out whether there is anything at all, and EXISTS that finds it out sooner.

detect   pure: SQL -> is it such a check, is the rewrite safe, how does it read
sources  finds SQL in JavaScript, TypeScript and Python, and whether the count is merely tested
prove    EXPLAIN before and after on the real data; the missing index first
advise   all of it together, as JSON and as text
command  `siding-monitor advise`
"""
