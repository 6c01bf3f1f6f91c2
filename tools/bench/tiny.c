//go:build ignore

// tiny is the command of all measurements: as short a life as a process can
// have. Static, so that no dynamic linker is measured. It writes a line; under
// the name tiny.cgi, the same file, it does so as CGI/1.1 has it, and reads a
// body before.
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define HEAD "Content-Type: text/plain\r\n\r\n"
#define LINE "Hello world!\n"

static char buf[64 << 10];

int
main(int argc, char *argv[])
{
	const char *out = LINE, *length = getenv("CONTENT_LENGTH");
	size_t n = strlen(argv[0]);

	if (n > 4 && strcmp(argv[0] + n - 4, ".cgi") == 0) {
		out = HEAD LINE;
		for (long left = length != NULL ? atol(length) : 0; left > 0;) {
			ssize_t r = read(STDIN_FILENO, buf, sizeof buf);

			if (r <= 0)
				return 1;
			left -= r;
		}
	}
	n = strlen(out);
	return write(STDOUT_FILENO, out, n) == (ssize_t)n ? 0 : 1;
}
