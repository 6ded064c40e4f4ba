"""Cases with titles for the unit tests of the attention operators of onnx-ops: one for each feature and
each combination that has been a mistake before. `make.py titled FOLDER` writes them.

The outputs are those of `reference/`, or of a definition in this folder for what `reference/` leaves
out. Each case also runs in onnxruntime, and the two must agree; where onnxruntime does not implement
what its documentation says, the case gives the reason.
"""

from . import grouped, heads, rotary, states

FILES = {
    "rotary_embedding": rotary.rotary_embedding,
    "group_query": grouped.group_query_attention,
    "multi_head": heads.multi_head_attention,
    "attention": heads.attention,
    "linear_attention": states.linear_attention,
    "causal_conv": states.causal_conv,
}
