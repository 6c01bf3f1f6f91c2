//go:build ignore

// limit is the least that it takes to start a process and read its output:
// posix_spawn with a pipe, read to the end, reap.
//
// limit SECONDS LOOPS PROGRAM [ARGUMENT ...] does that with PROGRAM again and
// again, in LOOPS processes at once. It prints
//
//	processes seconds cpu-seconds
//
// limit SOCKET FILE answers each request on a Unix socket with what cat(1) makes
// of FILE. A request comes in one write, and so in one read.
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static double
now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

// once runs a process; what it writes goes to a descriptor, unless that is -1.
static void
once(char **argv, int to)
{
	static char buf[64 << 10];
	char *envp[] = { NULL };
	posix_spawn_file_actions_t fa;
	int end[2], status, e;
	ssize_t n;
	pid_t pid;

	if (pipe2(end, O_CLOEXEC) == -1)
		err(1, "pipe2");
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, end[1], STDOUT_FILENO);
	if ((e = posix_spawn(&pid, argv[0], &fa, NULL, argv, envp)) != 0)
		errx(1, "%s: %s", argv[0], strerror(e));
	posix_spawn_file_actions_destroy(&fa);
	close(end[1]);
	while ((n = read(end[0], buf, sizeof buf)) > 0)
		if (to != -1 && write(to, buf, n) != n)
			err(1, "write");
	close(end[0]);
	if (waitpid(pid, &status, 0) == -1 || status != 0)
		errx(1, "%s: status %d", argv[0], status);
}

static void
loop(double seconds, int loops, char **argv)
{
	struct rusage ru;
	double began = now();
	long n, all = 0;
	int end[2], status;

	if (pipe(end) == -1)
		err(1, "pipe");
	for (int i = 0; i < loops; i++) {
		pid_t pid = fork();

		if (pid == -1)
			err(1, "fork");
		if (pid != 0)
			continue;
		for (n = 0; now() - began < seconds; n++)
			once(argv, -1);
		_exit(write(end[1], &n, sizeof n) != sizeof n);
	}
	for (int i = 0; i < loops; i++) {
		if (wait(&status) == -1 || status != 0 || read(end[0], &n, sizeof n) != sizeof n)
			errx(1, "a loop failed");
		all += n;
	}
	seconds = now() - began;
	// The loops and all that they have reaped.
	getrusage(RUSAGE_CHILDREN, &ru);
	printf("%ld %.6f %.6f\n", all, seconds, ru.ru_utime.tv_sec + ru.ru_stime.tv_sec +
	    (ru.ru_utime.tv_usec + ru.ru_stime.tv_usec) / 1e6);
}

static void
serve(char *path, char *file)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	char *argv[] = { "/bin/cat", file, NULL }, head[4096];
	struct stat st;
	int l, c;

	if (stat(file, &st) == -1)
		err(1, "%s", file);
	strncpy(a.sun_path, path, sizeof a.sun_path - 1);
	l = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (l == -1 || bind(l, (struct sockaddr *)&a, sizeof a) == -1 || listen(l, 128) == -1)
		err(1, "%s", path);
	signal(SIGCHLD, SIG_IGN);
	while ((c = accept4(l, NULL, NULL, SOCK_CLOEXEC)) != -1) {
		if (fork() == 0) {
			signal(SIGCHLD, SIG_DFL);
			while (read(c, head, sizeof head) > 0) {
				dprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %lld\r\n\r\n", (long long)st.st_size);
				once(argv, c);
			}
			_exit(0);
		}
		close(c);
	}
	err(1, "accept");
}

int
main(int argc, char *argv[])
{
	if (argc < 3)
		errx(64, "usage: limit SECONDS LOOPS PROGRAM [ARGUMENT ...], limit SOCKET FILE");
	if (argc == 3)
		serve(argv[1], argv[2]);
	else
		loop(atof(argv[1]), atoi(argv[2]), argv + 3);
	return 0;
}
