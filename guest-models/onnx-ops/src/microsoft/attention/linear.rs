//! LinearAttention and CausalConvWithState, of which ONNX has adopted a part: `nn` computes both.

use belljar_operators::MICROSOFT;

use crate::framework::registration::{Registration, own};
use crate::nn::{causal_conv, linear_attention};

pub(crate) const OPERATORS: &[Registration] = &[
    own("LinearAttention", linear_attention::build_microsoft).of(MICROSOFT),
    own("CausalConvWithState", causal_conv::build_microsoft).of(MICROSOFT),
];

#[cfg(test)]
mod tests {
    use crate::microsoft::attention::cases;
    use crate::testing::{counting, microsoft};

    #[test]
    fn linear_attention_gives_what_onnxruntime_and_numpy_give() {
        cases::check(include_str!("cases/linear_attention.txt"));
    }

    #[test]
    fn causal_convolution_gives_what_onnxruntime_and_numpy_give() {
        cases::check(include_str!("cases/causal_conv.txt"));
    }

    #[test]
    fn attributes_of_other_devices_are_refused_by_name() {
        let conv = || {
            let case = microsoft("CausalConvWithState").outputs(2).input(counting(&[1, 2, 3]));
            case.input(counting(&[2, 1, 2]))
        };
        for name in ["state_update_capacity", "state_length", "input_channels"] {
            conv().int(name, 1).fails(name);
        }
        conv().int("input_channel_offset", 1).fails("input_channel_offset");
        conv().int("state_channels_last", 0).fails("state_channels_last");
        conv().int("ndim", 2).fails("ndim is 2");
        conv().int("dilation", 0).fails("dilation is 0");
        conv().int("channels_last", 1).fails("kernel");
        conv().missing().input(counting(&[1, 2, 2])).fails("[1, 2, 2]");
        conv().int("state_window", 2).missing().input(counting(&[1, 2, 1])).fails("[1, 2, 1]");
    }

    #[test]
    fn heads_and_states_that_do_not_match_are_refused() {
        let linear = |queries: i64, keys: i64| {
            let case = microsoft("LinearAttention").outputs(2).text("update_rule", "linear");
            let case = case.int("q_num_heads", queries).int("kv_num_heads", keys);
            case.input(counting(&[1, 2, 6])).input(counting(&[1, 2, 6])).input(counting(&[1, 2, 6]))
        };
        linear(2, 3).fails("2 query heads");
        linear(3, 2).fails("3 query heads");
        linear(1, 1).input(counting(&[1, 1, 6, 5])).fails("state");
        linear(1, 1).int("state_window", 2).input(counting(&[1, 1, 6, 6])).fails("state");
        let gated = microsoft("LinearAttention").int("q_num_heads", 1).int("kv_num_heads", 1);
        gated.outputs(2).input(counting(&[1, 2, 6])).fails("");
    }
}
