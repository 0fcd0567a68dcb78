#include "text/json_cost.h"

namespace lk::text {
namespace {

constexpr size_t EXACT_DIGITS = 19;  // up to which a decoder needs no long arithmetic
constexpr uint64_t ESCAPES = 4;      // that take as long as a value

struct Text {
    size_t end;  // behind the closing quote
    uint64_t n_escape;
};

// The text whose first character is at `at`.
Text text_from(std::string_view text, size_t at) {
    uint64_t n_escape = 0;
    while (at < text.size() && text[at] != '"') {
        const bool escape = text[at] == '\\';
        n_escape += escape;
        at += escape ? 2 : 1;
    }
    return {at + 1, n_escape};
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
            const auto [end, n_escape] = text_from(text, at + 1);
            cost += per_large + n_escape / ESCAPES;
            at = end;
        } else if (c >= '0' && c <= '9') {
            const size_t end = end_of_digits(text, at);
            const std::string_view digits = text.substr(at, end - at);
            cost += digits.size() > EXACT_DIGITS ? digits.size() / 2 : digits.find('.') != digits.npos ? 1 : 0;
            at = end;
        } else {
            cost += c == ',' ? 1 : c == '[' || c == '{' ? per_large : 0;
            ++at;
        }
    }
    return cost;
}

}  // namespace lk::text
