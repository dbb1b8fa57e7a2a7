"""What HTTP caching means, as pure functions over plain values: no sockets, no clock, no asyncio.

messages       Fields, RequestHead, ResponseHead, StoredResponse: what decisions are about
decisions      every outcome and every reason, by name
targeted       CDN-Cache-Control and its like: fields that go before Cache-Control
fields         what field values say: lists, dates, entity tags, weights, cache directives
cache_key      which requests are the same: target URI, rule, Vary
json_content   JSON content, compared by what it says
freshness      how long a response may be reused, and how old it is
storability    whether it may be stored at all, and if not, why
reuse          what a stored response may be used for, now
validation     asking the origin whether it still holds, and taking in its 304
invalidation   what a successful change makes unusable; tags
preconditions  If-None-Match, If-Modified-Since, Range, If-Range
encoding       content codings: which, whether, and what they do to the head
forwarding     what a hop takes away from a message and what it adds
cache_status   what is said of it all in Cache-Status
judgement      the above in order, for an answer of the origin
extent         where a request ends among the octets that a client sends
lines          request lines and field lines in the one form that the fast ways take, remembered
plain          requests in that form; heads that differ in a few values alone, remembered
onward         what of such a request goes on to the next hop
prepared       answers from stored responses as octets, made once of what the policy said
passing        responses that pass, and what the policy made of their like
"""
