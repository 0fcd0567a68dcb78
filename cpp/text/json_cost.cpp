#include "text/json_cost.h"

#include <algorithm>

namespace lk::text {
namespace {

constexpr uint64_t kExactDigits = 19;      // up to which a decoder needs no long arithmetic
constexpr uint64_t kEscapes = 4;           // that take as long as a value
constexpr uint64_t kZeros = 10;            // before the digits that count, which take as long as a value
constexpr int64_t kCertainDigits = 14;     // before the point, up to which a decoder never doubts how to round
constexpr int64_t kLargestExponent = 999;  // more are no numbers

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

struct Number {
    size_t end;
    uint64_t cost;  // more than that of a small whole number
};

bool is_digit(std::string_view text, size_t at) {
    return at < text.size() && text[at] >= '0' && text[at] <= '9';
}

// The number whose first digit is at `at`.
Number number_from(std::string_view text, size_t at) {
    uint64_t n_zero = 0;   // before the first other digit, and in the exponent any
    uint64_t n_digit = 0;  // from that digit on
    int64_t n_whole = 0;   // of them, before the point
    bool real = false;
    for (; is_digit(text, at) || (at < text.size() && text[at] == '.'); ++at) {
        if (text[at] == '.') {
            real = true;
        } else if (n_digit == 0 && text[at] == '0') {
            ++n_zero;
        } else {
            ++n_digit;
            n_whole += !real;
        }
    }
    if (at < text.size() && (text[at] == 'e' || text[at] == 'E')) {
        real = true;
        ++at;
        const bool negative = at < text.size() && text[at] == '-';
        at += negative || (at < text.size() && text[at] == '+');
        int64_t exponent = 0;
        for (; is_digit(text, at); ++at) {
            exponent = std::min(10 * exponent + (text[at] - '0'), kLargestExponent);
            ++n_zero;
        }
        n_whole += negative ? -exponent : exponent;
    }
    uint64_t cost = n_zero / kZeros + (real ? 1 : 0);
    cost += n_digit > kExactDigits ? n_digit / 2 : 0;
    cost += real && n_whole > kCertainDigits ? 2 * static_cast<uint64_t>(n_whole) : 0;
    return {at, cost};
}

}  // namespace

uint64_t json_cost(std::string_view text, uint64_t per_large) {
    uint64_t cost = 0;
    for (size_t at = 0; at < text.size();) {
        const char c = text[at];
        if (c == '"') {
            const auto [end, n_escape] = text_from(text, at + 1);
            cost += per_large + n_escape / kEscapes;
            at = end;
        } else if (c >= '0' && c <= '9') {
            const auto [end, more] = number_from(text, at);
            cost += more;
            at = end;
        } else {
            cost += c == ',' ? 1 : c == '[' || c == '{' ? per_large : 0;
            ++at;
        }
    }
    return cost;
}

}  // namespace lk::text
