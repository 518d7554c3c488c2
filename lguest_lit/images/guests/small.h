/* The few things that a program without a library has to bring along. Used by the first Guest and by its processes. */
#ifndef SMALL_H
#define SMALL_H
#include "lguest.h"

/* The compiler may use these two for assignments of whole structures, so they need their usual names. */
__attribute__((used)) void *memcpy(void *to, const void *from, unsigned int n)
{
	void *d = to;
	asm volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(n) : : "memory");
	return to;
}

__attribute__((used)) void *memset(void *to, int byte, unsigned int n)
{
	void *d = to;
	asm volatile("rep stosb" : "+D"(d), "+c"(n) : "a"(byte) : "memory");
	return to;
}

/* printf's little sister: knows %s, %u and %x, and what an array of `size` bytes is. Returns the length of the text. */
static u32 format(char *out, u32 size, const char *text, __builtin_va_list args)
{
	u32 n = 0;

	for (; *text; text++) {
		char digits[12], *d = &digits[11];
		const char *s = d;
		u32 base = 10, value;

		*d = 0;
		if (*text != '%') {
			*--d = *text;
			s = d;
		} else if (*++text == 's') {
			s = __builtin_va_arg(args, const char *);
		} else {
			if (*text == 'x')
				base = 16;
			value = __builtin_va_arg(args, u32);
			do {
				*--d = "0123456789abcdef"[value % base];
			} while (value /= base);
			s = d;
		}
		while (*s && n < size - 1)
			out[n++] = *s++;
	}
	out[n] = 0;
	return n;
}
#endif /* SMALL_H */
