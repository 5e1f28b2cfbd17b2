// Stands in for native or heavy dependencies of dockerode that shoal never calls (see core/README.md).
module.exports = {};
