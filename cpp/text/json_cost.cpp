#include "text/json_cost.h"

namespace lk::text {
namespace {

constexpr size_t EXACT_DIGITS = 19;  // up to which a decoder needs no long arithmetic

// The end of a text whose first character is at `at`, behind its closing quote.
size_t end_of_text(std::string_view text, size_t at) {
    while (at < text.size() && text[at] != '"') {
        at += text[at] == '\\' ? 2 : 1;
    }
    return at + 1;
}

size_t end_of_digits(std::string_view text, size_t at) {
    while (at < text.size() && ((text[at] >= '0' && text[at] <= '9') || text[at] == '.')) {
        ++at;
    }
    return at;
}

}  // namespace

uint64_t json_cost(std::string_view text, uint64_t per_large) {
    uint64_t cost = 0;
    for (size_t at = 0; at < text.size();) {
        const char c = text[at];
        if (c == '"') {
            cost += per_large;
            at = end_of_text(text, at + 1);
        } else if (c >= '0' && c <= '9') {
            const size_t end = end_of_digits(text, at);
            cost += end - at > EXACT_DIGITS ? (end - at) / 2 : 0;
            at = end;
        } else {
            cost += c == ',' ? 1 : c == '[' || c == '{' ? per_large : 0;
            ++at;
        }
    }
    return cost;
}

}  // namespace lk::text
