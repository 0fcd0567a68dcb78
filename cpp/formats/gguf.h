// Reading the head of a GGUF file: metadata and tensor records, every number checked before it is used.
//
// Nothing is copied but names' places: results are offsets into the file. A count that the file claims is checked
// against the bytes left before memory is taken for it; all memory together stays below the size of the file plus
// 20 MiB for the records.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace lk::formats {

// A file that breaks the format; the message says what and at which byte.
struct ParseError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

enum ValueType : uint32_t {
    UINT8,
    INT8,
    UINT16,
    INT16,
    UINT32,
    INT32,
    FLOAT32,
    BOOL,
    STRING,
    ARRAY,
    UINT64,
    INT64,
    FLOAT64,
    N_VALUE_TYPE,
};

struct MetadataRecord {
    std::string_view key;
    uint32_t type;          // ValueType
    uint32_t element_type;  // of an array
    uint64_t count;         // of an array's elements; bytes of a string; else 1
    uint64_t offset;        // of the first byte of the value (a string's text, an array's first element)
    // Array of strings: where each element's text starts, relative to `offset`, and one more entry, where the text of
    // an element after the last would start. Text i has starts[i + 1] - starts[i] - length_bytes bytes.
    std::vector<uint32_t> starts;
};

struct TensorRecord {
    std::string_view name;
    uint32_t type;
    uint32_t n_dim;
    uint64_t dims[4];  // ne[0] first, as in the file
    uint64_t offset;   // from the start of the file
    uint64_t n_bytes;
};

struct Header {
    uint32_t version = 0;
    uint32_t length_bytes = 8;  // of a string's length: 4 in version 1
    uint64_t alignment = 32;
    uint64_t data_offset = 0;
    std::vector<MetadataRecord> metadata;
    std::vector<TensorRecord> tensors;
};

// Parse the head of the file in [data, data + size). Throws ParseError. The views point into `data`.
Header parse_gguf(const uint8_t* data, size_t size);

}  // namespace lk::formats
