// The ONNX element types that Belljar supports, in the order in which messages list them.
//
// The ABI, the table of operators and the operators include this file to define their own types.

/// Calls a macro with every element type: its name in code, its number in ONNX's
/// `TensorProto.DataType`, its short name, its ONNX name, and the bytes of one element in ABI
/// messages. The types of `stored` are only stored, moved and converted, and not computed with.
macro_rules! element_types {
    ($with:ident) => {
        $with! {
            computed {
                F16 = 10, "f16", "float16", Some(2);
                F32 = 1, "f32", "float", Some(4);
                F64 = 11, "f64", "double", Some(8);
                I8 = 3, "i8", "int8", Some(1);
                I16 = 5, "i16", "int16", Some(2);
                I32 = 6, "i32", "int32", Some(4);
                I64 = 7, "i64", "int64", Some(8);
                U8 = 2, "u8", "uint8", Some(1);
                U16 = 4, "u16", "uint16", Some(2);
                U32 = 12, "u32", "uint32", Some(4);
                U64 = 13, "u64", "uint64", Some(8);
                Bool = 9, "bool", "bool", Some(1);
                String = 8, "string", "string", None;
            }
            stored {
                BF16 = 16, "bf16", "bfloat16", Some(2);
                F8E4M3FN = 17, "float8e4m3fn", "float8e4m3fn", Some(1);
                F8E4M3FNUZ = 18, "float8e4m3fnuz", "float8e4m3fnuz", Some(1);
                F8E5M2 = 19, "float8e5m2", "float8e5m2", Some(1);
                F8E5M2FNUZ = 20, "float8e5m2fnuz", "float8e5m2fnuz", Some(1);
                F8E8M0 = 24, "float8e8m0", "float8e8m0", Some(1);
                F4E2M1 = 23, "float4e2m1", "float4e2m1", Some(1);
                I4 = 22, "i4", "int4", Some(1);
                U4 = 21, "u4", "uint4", Some(1);
                I2 = 26, "i2", "int2", Some(1);
                U2 = 25, "u2", "uint2", Some(1);
            }
        }
    };
}
