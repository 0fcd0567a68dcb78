// The pre-tokenizers that GGUF files name in `tokenizer.ggml.pre`: how a text is cut into words before merging.
#pragma once

#include <functional>
#include <string_view>
#include <vector>

#include "text/scanners.h"

namespace lk::text {

// What goes with a name beside its splitter.
struct PreType {
    const char* name;
    const char* family;
    bool ignore_merges = false;  // a word that is a token is that token
    bool add_bos = false;        // unless the file says otherwise
    bool raw = false;            // merges work on UTF-8 characters, not on the byte alphabet
    bool escape_spaces = false;  // a space is U+2581 in tokens
    bool no_bos = false;         // no default beginning-of-sequence token
};

// All names; null for one that is not among them.
const std::vector<PreType>& pre_types();
const PreType* find_pre_type(std::string_view name);

// Splits texts as one family does. Not to be shared between threads: its patterns compile while they run.
class Pretokenizer {
  public:
    explicit Pretokenizer(const PreType& type);

    // Ends of the words of a text, in code points.
    const Ends& split(const CodePoints& text);

  private:
    using Pass = std::function<void(const CodePoints&, uint32_t start, uint32_t end, Ends&)>;
    std::vector<Pass> passes_;
    Ends ends_;
    Ends next_;
};

}  // namespace lk::text
