from mmqsdt.cli.paper import main

if __name__ == '__main__':
    main()
