// Unicode 15.1 classes and a lenient UTF-8 decoder.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>
#include <vector>

namespace lk::text {

// The general categories by first letter; Space is the White_Space property and comes before the category.
enum Class : uint8_t { Other, Number, Letter, Punctuation, Mark, Symbol, Space };

// Class of a code point; Other beyond U+10FFFF.
Class class_of(uint32_t code_point);

// Bytes that a lead byte announces, 1 for continuation bytes.
inline size_t utf8_length(uint8_t lead) {
    return lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
}

// A code point decoded at the start of `text` and the bytes it took. A byte that starts no well-formed sequence
// counts as U+FFFD of one byte.
struct Decoded {
    uint32_t code_point;
    size_t length;
};
Decoded decode_utf8(std::string_view text);

// A text as code points. `kinds` is the folded alphabet of the patterns: ASCII stands for itself, other white
// space is 0x0B and every other code point is 0xD0 + its class.
struct CodePoints {
    std::vector<uint32_t> values;
    std::vector<uint8_t> kinds;
    std::vector<uint32_t> offsets;  // byte offset of each code point, then the size of the text

    void assign(std::string_view text);
    size_t size() const { return kinds.size(); }
};

inline constexpr uint8_t kFoldedSpace = 0x0B;
inline constexpr uint8_t kFoldedClass = 0xD0;

}  // namespace lk::text
