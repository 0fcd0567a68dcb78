// Block formats of GGUF tensors, one row at a time. The numpy in llamakit/gguf/quants.py defines them.
#pragma once

#include <cstdint>

namespace lk::formats {

enum Type : int {
    F32 = 0,
    F16 = 1,
    Q4_0 = 2,
    Q4_1 = 3,
    Q5_0 = 6,
    Q5_1 = 7,
    Q8_0 = 8,
    Q2_K = 10,
    Q3_K = 11,
    Q4_K = 12,
    Q5_K = 13,
    Q6_K = 14,
    Q8_K = 15,
    IQ2_XXS = 16,
    IQ2_XS = 17,
    IQ3_XXS = 18,
    IQ1_S = 19,
    IQ4_NL = 20,
    IQ3_S = 21,
    IQ2_S = 22,
    IQ4_XS = 23,
    IQ1_M = 29,
    BF16 = 30,
    TQ1_0 = 34,
    TQ2_0 = 35,
    MXFP4 = 39,
};

struct TypeTraits {
    const char* name;
    int block_size;  // values
    int type_size;   // bytes
};

// The traits of a type that can be decoded, or null.
const TypeTraits* traits(int type);

// Bytes of a row of n values; throws std::invalid_argument if n is no multiple of the block or the type unknown.
int64_t row_bytes(int type, int64_t n);

// Decode n values, a multiple of the block size.
void dequantize_row(int type, const void* source, float* destination, int64_t n);

// Encode n values, a multiple of the block size; throws std::invalid_argument if the type can only be decoded.
void quantize_row(int type, const float* source, void* destination, int64_t n);

}  // namespace lk::formats
