package images

import "context"

// ShopBase returns the images that examples/shop, a module of its own in dir, runs or
// is built from.
func (c Cache) ShopBase(ctx context.Context, dir string) ([]Image, error) {
	debian, err := c.Debian(ctx, Postgres(), Redis(), Nginx())
	if err != nil {
		return nil, err
	}
	toolchain, err := c.Toolchain(ctx, dir, "./...")
	if err != nil {
		return nil, err
	}
	return append(debian, toolchain), nil
}

// Shop returns all images of examples/shop with its programs built already, as
// its Dockerfile would. dir is its directory.
func (c Cache) Shop(ctx context.Context, dir string) ([]Image, error) {
	debian, err := c.Debian(ctx, Postgres(), Redis(), Nginx())
	if err != nil {
		return nil, err
	}
	programs, err := c.Go(ctx, dir,
		shopProgram("web", "EXPOSE 8080"), shopProgram("worker"), shopProgram("migrate"))
	if err != nil {
		return nil, err
	}
	return append(debian, programs...), nil
}

func shopProgram(name string, changes ...string) Program {
	return Program{
		Ref:     "shop-" + name,
		Path:    "/service",
		Package: "./" + name,
		Changes: append([]string{`ENTRYPOINT ["/service"]`, "USER app"}, changes...),
	}
}
