#include "grammar/utf8_ranges.h"

#include <algorithm>

namespace lk::grammar {
namespace {

constexpr int32_t kEnds[] = {0x7F, 0x7FF, 0xFFFF, 0x10FFFF};  // the last code points of one to four bytes

int encode(int32_t c, uint8_t* out) {
    if (c <= 0x7F) return out[0] = uint8_t(c), 1;
    if (c <= 0x7FF) return out[0] = uint8_t(0xC0 | c >> 6), out[1] = uint8_t(0x80 | (c & 63)), 2;
    if (c <= 0xFFFF)
        return out[0] = uint8_t(0xE0 | c >> 12), out[1] = uint8_t(0x80 | (c >> 6 & 63)),
               out[2] = uint8_t(0x80 | (c & 63)), 3;
    return out[0] = uint8_t(0xF0 | c >> 18), out[1] = uint8_t(0x80 | (c >> 12 & 63)),
           out[2] = uint8_t(0x80 | (c >> 6 & 63)), out[3] = uint8_t(0x80 | (c & 63)), 4;
}

// A range whose ends have the same number of bytes.
void same_length(int32_t lo, int32_t hi, std::vector<ByteSequence>& out) {
    for (int32_t bits = 6; bits <= 18; bits += 6) {
        const int32_t low = (int32_t(1) << bits) - 1;
        if ((lo & ~low) == (hi & ~low)) break;
        if (lo & low) return same_length(lo, lo | low, out), same_length((lo | low) + 1, hi, out);
        if ((hi & low) != low) return same_length(lo, (hi & ~low) - 1, out), same_length(hi & ~low, hi, out);
    }
    uint8_t a[4], b[4];
    const int n = encode(lo, a);
    encode(hi, b);
    ByteSequence sequence;
    for (int i = 0; i < n; ++i) sequence.push_back({a[i], b[i]});
    out.push_back(std::move(sequence));
}

void without_surrogates(int32_t lo, int32_t hi, std::vector<ByteSequence>& out) {
    for (int32_t end : kEnds) {
        if (lo > hi) return;
        if (lo > end) continue;
        same_length(lo, std::min(hi, end), out);
        lo = end + 1;
    }
}

}  // namespace

void utf8_sequences(int32_t lo, int32_t hi, std::vector<ByteSequence>& out) {
    lo = std::max(lo, 0), hi = std::min(hi, int32_t(0x10FFFF));
    without_surrogates(lo, std::min(hi, int32_t(0xD7FF)), out);
    without_surrogates(std::max(lo, int32_t(0xE000)), hi, out);
}

}  // namespace lk::grammar
