package perms

const enforced = "write permission on the socket file, and search permission on its directories"
