"""Random configurations of each operator, one generator per operator.

Not drawn, although documented: bfloat16 and 8-bit floats other than GatherBlockQuantized's; masks of
3 * batch + 2 numbers, cache_indirection, and buffers shared by past and present (MultiHeadAttention,
Attention, QAttention); do_rotary of Attention and QAttention; q_norm_weight and k_norm_weight,
prompts whose sequences differ in length, and idle sequences (GroupQueryAttention: outputs are then
unspecified in part, or onnxruntime's CPU kernel refuses them); is_packed_batching (RotaryEmbedding);
use_sparse_mixer and widths by layer (MoE, QMoE); captured states (GatedDeltaNet, CausalConvWithState);
packed inputs and searches with beams (DecoderMaskedMultiHeadAttention).
"""

from .draw import Draw
from . import (
    activations,
    normalization,
    weights,
    products,
    recurrent,
    attention,
    grouped,
    quantized,
    shapes,
    images,
    texts,
    experts,
    states,
)

GENERATORS = {}
for family in (
    activations,
    normalization,
    weights,
    products,
    recurrent,
    attention,
    grouped,
    quantized,
    shapes,
    images,
    texts,
    experts,
    states,
):
    GENERATORS |= family.GENERATORS
