// Ranges of code points as sequences of byte ranges.
#pragma once

#include <cstdint>
#include <vector>

namespace lk::grammar {

struct ByteRange {
    uint8_t lo, hi;
    bool operator<(const ByteRange& o) const { return lo != o.lo ? lo < o.lo : hi < o.hi; }
};

// One to four byte ranges: every choice of a byte from each in turn is the UTF-8 form of a code point.
using ByteSequence = std::vector<ByteRange>;

// The sequences that together are exactly lo..hi, without surrogates. (The method of R. Cox, "Regular expression
// matching in the wild", 2010: cut where the length changes, then where a continuation byte wraps around.)
void utf8_sequences(int32_t lo, int32_t hi, std::vector<ByteSequence>& out);

}  // namespace lk::grammar
