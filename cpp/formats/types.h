// The tensor types of GGUF, from the one table in types.inc.
#pragma once

#include <cstdint>

namespace lk::formats {

enum Type : int {
#define X(name, number, values, bytes, kind) name = number,
#include "formats/types.inc"
#undef X
};

struct TypeTraits {
    const char* name;
    int number;
    int block_size;  // values
    int type_size;   // bytes
    bool readable;   // whether it can be decoded
};

enum class TypeKind { block, plain, size_only };
constexpr TypeTraits kTypes[] = {
#define X(name, number, values, bytes, kind) {#name, number, values, bytes, TypeKind::kind != TypeKind::size_only},
#include "formats/types.inc"
#undef X
};

// A type's traits, or null if there is no such type.
constexpr const TypeTraits* traits(int64_t type) {
    for (const TypeTraits& each : kTypes)
        if (each.number == type) return &each;
    return nullptr;
}

}  // namespace lk::formats
