#include "text/encoder.h"

#include <algorithm>

namespace lk::text {
namespace {

constexpr size_t kRememberedWords = 1 << 17, kRememberedBytes = 64;
constexpr std::string_view kSpace = "\xE2\x96\x81";  // U+2581

void escape_spaces(std::string_view text, std::string& out) {
    for (const char c : text) c == ' ' ? out.append(kSpace) : out.append(1, c);
}

}  // namespace

void Encoder::word(std::string_view text, const Merger& merger, Ids& out) {
    const bool remembered = text.size() <= kRememberedBytes;
    if (remembered) {
        if (const auto known = words_.find(text); known != words_.end()) {
            out.insert(out.end(), known->second.begin(), known->second.end());
            return;
        }
    }
    const size_t from = out.size();
    merger.encode(text, scratch_, out);
    if (!remembered) return;
    if (words_.size() >= kRememberedWords) words_.clear();
    words_.emplace(text, Ids(out.begin() + std::ptrdiff_t(from), out.end()));
}

BpeEncoder::BpeEncoder(Vocabulary& vocabulary, std::string_view buffer, std::span<const Span> merges,
                       const PreType& type)
    : escape_spaces_(type.escape_spaces),
      pretokenizer_(type),
      merger_(vocabulary, buffer, merges,
              {.raw = type.raw, .ignore_merges = type.ignore_merges, .newline_words = type.raw}) {}

void BpeEncoder::encode(std::string_view text, bool first, Ids& out) {
    if (escape_spaces_) {
        escaped_.clear();
        escape_spaces(text, escaped_);
        text = escaped_;
    }
    code_points_.assign(text);
    uint32_t start = 0;
    for (const uint32_t end : pretokenizer_.split(code_points_)) {
        const uint32_t from = code_points_.offsets[start], to = code_points_.offsets[end];
        if (to > from) word(text.substr(from, to - from), merger_, out);
        start = end;
    }
}

SpmEncoder::SpmEncoder(const Vocabulary& vocabulary, std::vector<float> scores, bool space_prefix, int32_t unknown)
    : merger_(vocabulary, std::move(scores), unknown), space_prefix_(space_prefix) {
    // A merge can cross from a word into the space that follows it only if some token does.
    for (int32_t id = 0; id < vocabulary.n_tokens(); ++id) {
        const std::string_view text = vocabulary.text(id);
        for (size_t at = text.find(kSpace, 1); at != std::string_view::npos; at = text.find(kSpace, at + 1))
            if (at < 3 || text.substr(at - 3, 3) != kSpace) words_stand_alone_ = false;
    }
}

void SpmEncoder::encode(std::string_view text, bool first, Ids& out) {
    escaped_.clear();
    if (space_prefix_ && first) escaped_ += kSpace;
    escape_spaces(text, escaped_);
    const std::string_view all = escaped_;
    if (!words_stand_alone_) return word(all, merger_, out);
    for (size_t start = 0; start < all.size();) {  // cut before a space that follows something else
        size_t end = start;
        while (all.substr(end, kSpace.size()) == kSpace) end += kSpace.size();
        end = std::min(all.find(kSpace, end), all.size());
        word(all.substr(start, end - start), merger_, out);
        start = end;
    }
}

}  // namespace lk::text
