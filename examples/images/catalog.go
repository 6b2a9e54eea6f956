package images

import (
	_ "embed"
)

var (
	//go:embed files/postgres-entrypoint.sh
	postgresEntrypoint string
	//go:embed files/redis-entrypoint.sh
	redisEntrypoint string
	//go:embed files/nginx.conf
	nginxConf string
	//go:embed files/nginx-default.conf
	nginxDefault string
)

const path0 = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// Postgres is PostgreSQL with the environment, volume, port, stop signal and
// user of the official image.
func Postgres() Recipe {
	bin := "/usr/lib/postgresql/15/bin"
	links := linksTo(bin, "createdb", "createuser", "dropdb", "initdb", "pg_basebackup", "pg_ctl",
		"pg_dump", "pg_dumpall", "pg_isready", "pg_restore", "postgres", "psql", "vacuumdb")
	links["usr/bin/pager"] = "less" // what psql shows long answers with
	return Recipe{
		Ref:      "postgres:15",
		Packages: withBase("postgresql-15", "postgresql-client-15", "less"),
		Drop: []string{
			// The just-in-time compiler weighs more than the rest together;
			// without its provider the server does not use it.
			"usr/lib/*/libLLVM-*", "usr/lib/*/libz3.so.*",
			"usr/lib/postgresql/15/lib/llvmjit*", "usr/lib/postgresql/15/lib/bitcode",
			"usr/share/postgresql/15/man", "usr/share/postgresql-common",
		},
		Users: []User{{"postgres", 999, "/var/lib/postgresql"}},
		Dirs: []Dir{
			{"docker-entrypoint-initdb.d", 0o755, 0},
			{"var/lib/postgresql", 0o755, 999},
			{"var/lib/postgresql/data", 0o700, 999},
			{"run/postgresql", 0o3775, 999},
		},
		Files: map[string]File{
			"usr/local/bin/docker-entrypoint.sh": {Text: postgresEntrypoint, Mode: 0o755},
		},
		Links: links,
		Changes: []string{
			`ENTRYPOINT ["docker-entrypoint.sh"]`,
			`CMD ["postgres"]`,
			"ENV " + path0,
			"ENV LANG=C.UTF-8",
			"ENV PG_MAJOR=15",
			"ENV PGDATA=/var/lib/postgresql/data",
			"VOLUME /var/lib/postgresql/data",
			"EXPOSE 5432",
			"STOPSIGNAL SIGINT",
		},
	}
}

// Redis is Redis with the volume, port and user of the official image.
func Redis() Recipe {
	return Recipe{
		Ref:      "redis:7",
		Packages: withBase("redis-server", "redis-tools"),
		Drop:     []string{"usr/bin/redis-benchmark", "etc/redis"},
		Users:    []User{{"redis", 999, "/data"}},
		Dirs:     []Dir{{"data", 0o755, 999}},
		Files: map[string]File{
			"usr/local/bin/docker-entrypoint.sh": {Text: redisEntrypoint, Mode: 0o755},
		},
		Changes: []string{
			`ENTRYPOINT ["docker-entrypoint.sh"]`,
			`CMD ["redis-server"]`,
			"ENV " + path0,
			"VOLUME /data",
			"WORKDIR /data",
			"EXPOSE 6379",
		},
	}
}

// Nginx is nginx with the paths, port and stop signal of the official image.
func Nginx() Recipe {
	return Recipe{
		Ref:      "nginx:1.22",
		Packages: withBase("nginx"),
		Drop:     []string{"etc/nginx/sites-*", "etc/nginx/modules-*", "var/www", "etc/ufw", "usr/share/vim"},
		Users:    []User{{"nginx", 101, "/nonexistent"}},
		Dirs: []Dir{
			{"var/log/nginx", 0o755, 101}, {"var/lib/nginx", 0o755, 0},
			{"etc/nginx/conf.d", 0o755, 0},
		},
		Files: map[string]File{
			"etc/nginx/nginx.conf":          {Text: nginxConf, Mode: 0o644},
			"etc/nginx/conf.d/default.conf": {Text: nginxDefault, Mode: 0o644},
		},
		Links: map[string]string{
			"var/log/nginx/access.log": "/dev/stdout",
			"var/log/nginx/error.log":  "/dev/stderr",
		},
		Changes: []string{
			`CMD ["nginx", "-g", "daemon off;"]`,
			"ENV " + path0,
			"EXPOSE 80",
			"STOPSIGNAL SIGQUIT",
		},
	}
}

// linksTo makes commands of dir reachable through the usual search path.
func linksTo(dir string, names ...string) map[string]string {
	links := make(map[string]string, len(names))
	for _, n := range names {
		links["usr/bin/"+n] = dir + "/" + n
	}
	return links
}
