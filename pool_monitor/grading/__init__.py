"""The grading wrapper: OpenAI's API passed through, and known prompts made smaller on the way.

serve        what `/v1/*` answers: the story of a request
part         composition of all this: builds, starts, stops
calls        a completion as it is asked and answered, and why one is left as it is

templates    pure: is this a prompt we know, and the request in its compact form; template_files reads them
shapes       pure: what a template says of its answers
answers      pure: the full answer and its compact form, each from the other
scanning, expanding  pure: the same while it streams

completions  asks, expands, asks again when that is not certain; streamed does so while it streams, outcomes says how
health       pure: a template that fails too often rests
collapse     equal requests share one answer on its way
stored       answers at temperature 0, kept
upstream     every connection to the upstream: vendor (its SDK), forwarding (octets), turns, care (pure), asking, wire
receiving    what a caller sends, to_caller what it is sent; sse (pure) events of a stream; decoding of content codings

batch        many at once: batch_items (pure), batch_asking, batch_runs; batch_http answers them in one request
batches      the API of batches: batches_http answers it, batch_files, batch_form (pure) what is sent
batch_input  what one of these is to ask; batch_running asks it

models, images, tokens  what is known of models, and how tokens are counted
accounting   pure: the books; bookkeeping keeps them beside the event loop; costs reckons
quality, paired  pure: are the grades the same, quality_report in words; shadow asks in the background
evaluate     the same on labelled homework (dataset): evaluate_runs asks, evaluate_report says what came of it
jsons, reading  pure: JSON as models and the vendor write it, and the full answer in it
limits       what an operator bounds
observed, metrics, traces  what it tells of itself
"""
