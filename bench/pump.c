//go:build ignore

// pump SOCKET FILE answers each request on a Unix socket with what cat(1)
// writes into a pipe: the least that a server of command output can do.
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

static char buf[64 << 10];

static int
put(int fd, const char *p, size_t n)
{
	while (n > 0) {
		ssize_t w = write(fd, p, n);

		if (w <= 0)
			return -1;
		p += w;
		n -= w;
	}
	return 0;
}

static int
answer(int c, char *file, off_t size)
{
	char *argv[] = { "cat", file, NULL }, *envp[] = { NULL }, head[128];
	posix_spawn_file_actions_t fa;
	int end[2], e;
	ssize_t n;
	pid_t pid;

	if (pipe2(end, O_CLOEXEC) == -1)
		err(1, "pipe2");
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, end[1], STDOUT_FILENO);
	if ((e = posix_spawn(&pid, "/bin/cat", &fa, NULL, argv, envp)) != 0)
		errx(1, "cat: %s", strerror(e));
	posix_spawn_file_actions_destroy(&fa);
	close(end[1]);
	snprintf(head, sizeof head, "HTTP/1.1 200 OK\r\nContent-Length: %lld\r\n\r\n", (long long)size);
	e = put(c, head, strlen(head));
	while (e == 0 && (n = read(end[0], buf, sizeof buf)) > 0)
		e = put(c, buf, n);
	close(end[0]);
	waitpid(pid, NULL, 0);
	return e;
}

static void
serve(int c, char *file, off_t size)
{
	size_t have = 0;
	ssize_t n;
	int last;

	while ((n = read(c, buf + have, sizeof buf - have)) > 0) {
		have += n;
		if (have < 4 || memcmp(buf + have - 4, "\r\n\r\n", 4) != 0)
			continue;
		last = memmem(buf, have, "Connection: close", 17) != NULL;
		if (answer(c, file, size) == -1 || last)
			return;
		have = 0;
	}
}

int
main(int argc, char *argv[])
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct stat st;
	int l, c;

	if (argc != 3 || strlen(argv[1]) >= sizeof a.sun_path)
		errx(64, "usage: pump SOCKET FILE");
	if (stat(argv[2], &st) == -1)
		err(1, "%s", argv[2]);
	strcpy(a.sun_path, argv[1]);
	l = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (l == -1 || bind(l, (struct sockaddr *)&a, sizeof a) == -1 || listen(l, 128) == -1)
		err(1, "%s", argv[1]);
	signal(SIGCHLD, SIG_IGN);
	while ((c = accept4(l, NULL, NULL, SOCK_CLOEXEC)) != -1) {
		if (fork() == 0) {
			signal(SIGCHLD, SIG_DFL);
			serve(c, argv[2], st.st_size);
			_exit(0);
		}
		close(c);
	}
	err(1, "accept");
}
