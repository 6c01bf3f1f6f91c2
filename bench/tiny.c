//go:build ignore

// tiny is the command of all measurements: as short a life as a process can
// have. Static, so that no dynamic linker is measured.
//
//	tiny           writes a line
//	tiny.cgi       writes it as CGI/1.1 does (the same file under this name)
//	tiny sleep N   sleeps for N milliseconds before it writes
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define HEAD "Content-Type: text/plain\r\n\r\n"
#define LINE "Hello world!\n"

int
main(int argc, char *argv[])
{
	const char *out = LINE;
	size_t n = strlen(argv[0]);

	if (n > 4 && strcmp(argv[0] + n - 4, ".cgi") == 0)
		out = HEAD LINE;
	if (argc > 2 && strcmp(argv[1], "sleep") == 0) {
		long ms = atol(argv[2]);
		struct timespec ts = { ms / 1000, ms % 1000 * 1000000 };

		while (nanosleep(&ts, &ts) == -1)
			;
	}
	n = strlen(out);
	return write(STDOUT_FILENO, out, n) == (ssize_t)n ? 0 : 1;
}
