// The number types that products on tensor cores multiply.
#pragma once

enum class Number { f16, bf16, tf32 };
