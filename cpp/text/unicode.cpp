#include "text/unicode.h"

#include <algorithm>
#include <iterator>

namespace lk::text {
namespace {

struct Run {
    uint32_t first;
    Class cls;
};

constexpr Run kRuns[] = {
#include "text/unicode_tables.inc"
};

constexpr uint32_t kCodePoints = 0x110000;

// One byte per code point: 1.1 MB, filled in well under a millisecond on first use.
const std::vector<Class>& table() {
    static const std::vector<Class> classes = [] {
        std::vector<Class> filled(kCodePoints, Other);
        for (size_t i = 0; i < std::size(kRuns); ++i) {
            const uint32_t end = i + 1 < std::size(kRuns) ? kRuns[i + 1].first : kCodePoints;
            std::fill(filled.begin() + kRuns[i].first, filled.begin() + end, kRuns[i].cls);
        }
        return filled;
    }();
    return classes;
}

bool is_continuation(char byte) {
    return (static_cast<uint8_t>(byte) & 0xC0) == 0x80;
}

}  // namespace

Class class_of(uint32_t code_point) {
    return code_point < kCodePoints ? table()[code_point] : Other;
}

Decoded decode_utf8(std::string_view text) {
    const auto lead = static_cast<uint8_t>(text[0]);
    if (lead < 0x80) {
        return {lead, 1};
    }
    const size_t length = utf8_length(lead);
    if (length == 1 || lead >= 0xF8 || length > text.size()) {
        return {0xFFFD, 1};
    }
    uint32_t value = lead & (0x7Fu >> length);
    for (size_t i = 1; i < length; ++i) {
        if (!is_continuation(text[i])) {
            return {0xFFFD, 1};
        }
        value = value << 6 | (static_cast<uint8_t>(text[i]) & 0x3F);
    }
    return {value, length};
}

void CodePoints::assign(std::string_view text) {
    const std::vector<Class>& classes = table();
    values.resize(text.size());
    kinds.resize(text.size());
    offsets.resize(text.size() + 1);
    size_t count = 0;
    for (size_t at = 0; at < text.size(); ++count) {
        offsets[count] = static_cast<uint32_t>(at);
        const auto byte = static_cast<uint8_t>(text[at]);
        if (byte < 0x80) {
            values[count] = kinds[count] = byte;
            ++at;
            continue;
        }
        const Decoded decoded = decode_utf8(text.substr(at));
        const Class cls = decoded.code_point < kCodePoints ? classes[decoded.code_point] : Other;
        // An overlong form can decode to ASCII, which stands for itself like any other.
        kinds[count] = decoded.code_point < 0x80 ? static_cast<uint8_t>(decoded.code_point)
                       : cls == Space            ? kFoldedSpace
                                                 : static_cast<uint8_t>(kFoldedClass + cls);
        values[count] = decoded.code_point;
        at += decoded.length;
    }
    offsets[count] = static_cast<uint32_t>(text.size());
    values.resize(count);
    kinds.resize(count);
    offsets.resize(count + 1);
}

}  // namespace lk::text
